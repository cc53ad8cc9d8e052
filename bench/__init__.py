"""leandet's harness: papers as data, runs as values, numbers that can be doubted. It never imports `implementations`."""
