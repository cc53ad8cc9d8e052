"""POD: Practical Object Detection with Scale-Sensitive Network."""
