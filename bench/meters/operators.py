"""The formula of each operator, as data: how many multiply-adds one call of it is, and which operators are none at all.

A formula is given the call (arguments by the names of the operator's schema, and what it returned). It answers None where the number depends on
values that are not there: sizes of boxes on the meta device, say. The meter then says so and makes its count a lower bound.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

BILINEAR = 4  # multiply-adds of one bilinear sample: four corners, each times its weight


@dataclass(frozen=True)
class Call:
    """One call of an operator: what was given, by name, and what came back (the first tensor where it is several)."""

    given: Mapping[str, Any]
    out: Any

    def size(self, name: str) -> int:
        """Number of elements of a tensor that was given."""
        return int(self.given[name].numel())


Formula = Callable[[Call], int | None]


def nothing(_: Call) -> int:
    """No multiply-adds by the convention at hand; known, so not a gap."""
    return 0


def convolution(call: Call) -> int:
    """Weights x positions: those of the output, or those of the input if it is transposed. Groups and dilation are in the weight's shape."""
    grid = call.given["input"] if call.given.get("transposed") else call.out
    spatial = call.given["weight"].dim() - 2
    batch = grid.shape[0] if grid.dim() == spatial + 2 else 1
    return call.size("weight") * int(batch) * int(grid[0].numel() // grid.shape[1] if grid.dim() == spatial + 2 else grid[0].numel())


def convolution_with_bias(call: Call) -> int:
    """As `convolution`, and one for the bias of each output element: mmdet's rule."""
    return convolution(call) + (int(call.out.numel()) if call.given.get("bias") is not None else 0)


def product(left: str, right: str) -> Formula:
    """A matrix product of the two named arguments, (..., m, k) by (..., k, n) or (..., k): m x k x n, a batch times."""

    def formula(call: Call) -> int:
        columns = call.given[right].shape[-1] if call.given[right].dim() > 1 else 1
        return call.size(left) * int(columns)

    return formula


def linear(call: Call) -> int:
    """Weights x rows."""
    weight = call.given["weight"]
    return call.size("weight") * (call.size("input") // int(weight.shape[-1]))


def attention(call: Call) -> int:
    """Queries by keys, then by values: B H L S (E + Ev). (B, H, L, E), (B, H, S, E), (B, H, S, Ev)."""
    query, key, value = (call.given[name] for name in ("query", "key", "value"))
    return int(query.numel() // query.shape[-1] * key.shape[-2] * (query.shape[-1] + value.shape[-1]))


def deformable(call: Call) -> int:
    """Weights x output positions, without the sampling."""
    return call.size("weight") * int(call.out.numel() // call.out.shape[1])


def deformable_with_sampling(call: Call) -> int:
    """As `deformable`, and a bilinear sample for each input channel, kernel element and output position."""
    weight, positions = call.given["weight"], int(call.out.numel() // call.out.shape[1])
    samples = int(call.given["input"].shape[1]) * int(weight.shape[2] * weight.shape[3]) * positions
    return deformable(call) + BILINEAR * samples


def roi_align(call: Call) -> int | None:
    """A bilinear sample per output element and sampling point. The points of an adaptive grid depend on the boxes: unknown on meta."""
    ratio, rois = int(call.given["sampling_ratio"]), call.given["rois"]
    if ratio > 0:
        return BILINEAR * int(call.out.numel()) * ratio * ratio
    if rois.device.type == "meta":
        return None
    scale, bins = float(call.given["spatial_scale"]), (int(call.given["pooled_height"]), int(call.given["pooled_width"]))
    least = 0.0 if call.given.get("aligned") else 1.0  # the older kind widens every box to one cell
    points = 0
    for _, left, top, right, bottom in rois.tolist():
        down, across = (max(side * scale, least) for side in (bottom - top, right - left))
        points += ceil(down / bins[0]) * ceil(across / bins[1])
    return BILINEAR * points * int(call.out[0].numel() if len(call.out) else 0)


def bilinear_output(call: Call) -> int:
    """A bilinear sample per output element."""
    return BILINEAR * int(call.out.numel())


def pooled_elements(call: Call) -> int:
    """The elements that go into a pooling: mmdet's rule."""
    return call.size("self")


def global_pooled_elements(call: Call) -> int:
    """A mean over the two last of four dimensions is a global average pooling; any other mean is none."""
    tensor, dims = call.given["self"], call.given.get("dim") or ()
    return int(tensor.numel()) if tensor.dim() == 4 and {dim % 4 for dim in dims} == {2, 3} else 0


PRODUCTS: dict[str, Formula] = {
    "aten::convolution": convolution,
    "aten::_convolution": convolution,
    "aten::cudnn_convolution": convolution,
    "aten::mkldnn_convolution": convolution,
    "aten::mm": product("self", "mat2"),
    "aten::_int_mm": product("self", "mat2"),
    "aten::_scaled_mm": product("self", "mat2"),
    "aten::addmm": product("mat1", "mat2"),
    "aten::_addmm_activation": product("mat1", "mat2"),
    "aten::bmm": product("self", "mat2"),
    "aten::baddbmm": product("batch1", "batch2"),
    "aten::addbmm": product("batch1", "batch2"),
    "aten::mv": product("self", "vec"),
    "aten::addmv": product("mat", "vec"),
    "aten::dot": product("self", "tensor"),
    "aten::vdot": product("self", "other"),
    "aten::linear": linear,
    "aten::mkldnn_linear": linear,
    "aten::scaled_dot_product_attention": attention,
    "aten::_scaled_dot_product_attention_math": attention,
    "aten::_scaled_dot_product_flash_attention": attention,
    "aten::_scaled_dot_product_flash_attention_for_cpu": attention,
    "aten::_scaled_dot_product_efficient_attention": attention,
    "aten::_scaled_dot_product_cudnn_attention": attention,
    "aten::_scaled_dot_product_fused_attention_overrideable": attention,
    "torchvision::deform_conv2d": deformable,
}

SAMPLING: dict[str, Formula] = {
    "torchvision::deform_conv2d": deformable_with_sampling,
    "torchvision::roi_align": roi_align,
    "torchvision::ps_roi_align": roi_align,
    "aten::grid_sampler_2d": bilinear_output,
    "aten::upsample_bilinear2d": bilinear_output,
    "aten::_upsample_bilinear2d_aa": bilinear_output,
}

POOLING: dict[str, Formula] = {
    "aten::avg_pool2d": pooled_elements,
    "aten::_adaptive_avg_pool2d": pooled_elements,
    "aten::adaptive_avg_pool2d": pooled_elements,
    "aten::adaptive_max_pool2d": pooled_elements,
    "aten::max_pool2d_with_indices": pooled_elements,
    "aten::max_pool2d": pooled_elements,
    "aten::mean": global_pooled_elements,
}

_WORDS = {
    "making": """arange empty empty_like empty_permuted empty_strided eye fill full full_like linspace new_empty new_empty_strided new_full new_ones
        new_zeros ones ones_like rand rand_like randint randn randn_like randperm scalar_tensor zero zeros zeros_like bernoulli normal uniform
        exponential random multinomial meshgrid tril triu tril_indices triu_indices""",
    "shape": """alias as_strided as_strided_copy cat chunk clone constant_pad_nd contiguous copy _conj detach diagonal diag expand expand_as flatten
        flip hstack lift lift_fresh lift_fresh_copy movedim narrow pad permute pin_memory pixel_shuffle pixel_unshuffle reflection_pad2d
        repeat repeat_interleave replication_pad2d reshape _reshape_alias resize resize_as roll rot90 select set slice split split_with_sizes squeeze
        stack t transpose unbind unfold unsafe_chunk unsafe_split unsafe_split_with_sizes _unsafe_view unsqueeze view view_as vstack _to_copy to
        im2col col2im channel_shuffle native_channel_shuffle real imag view_as_real view_as_complex dropout native_dropout
        _has_compatible_shallow_copy_type is_pinned sym_size sym_numel sym_stride sym_storage_offset is_same_size record_stream""",
    "elementwise": """abs add addcdiv addcmul atan atan2 bitwise_and bitwise_not bitwise_or bitwise_xor bitwise_left_shift bitwise_right_shift ceil
        clamp clamp_max clamp_min clip cos copysign div erf erfc exp exp2 expm1 floor floor_divide fmax fmin fmod frac isclose isfinite isinf isnan
        lerp log log10 log1p log2 logaddexp logical_and logical_not logical_or logical_xor masked_fill maximum minimum mul nan_to_num neg pow
        reciprocal remainder round rsqrt rsub sgn sign sin sqrt square sub tan threshold trunc where xlogy eq ne lt le gt ge __and__ __or__
        __xor__ acos asin cosh sinh outer ger""",
    "activation": """celu elu gelu glu hardsigmoid hardswish hardtanh leaky_relu log_sigmoid_forward log_softmax _log_softmax mish prelu
        _prelu_kernel relu relu6 rrelu_with_noise selu sigmoid silu softmax _softmax _safe_softmax softplus softshrink tanh""",
    "normalisation": """batch_norm native_batch_norm _native_batch_norm_legit _native_batch_norm_legit_no_training _batch_norm_impl_index
        _batch_norm_no_update cudnn_batch_norm miopen_batch_norm instance_norm group_norm native_group_norm layer_norm native_layer_norm rms_norm
        _fused_rms_norm native_norm norm linalg_vector_norm""",
    "pooling": """avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d _adaptive_avg_pool2d _adaptive_avg_pool3d
        adaptive_max_pool1d adaptive_max_pool2d max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d_with_indices""",
    "interpolation": "upsample_bicubic2d upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact2d",
    "reduction": """all allclose aminmax amax amin any argmax argmin bincount count_nonzero cummax cummin cumprod cumsum equal histc item kthvalue
        logsumexp max mean median min nansum nonzero prod std std_mean sum topk sort argsort unique_consecutive unique_dim _unique2 var var_mean
        _local_scalar_dense searchsorted bucketize isin""",
    "indexing": """embedding gather index index_add index_copy index_fill index_put _index_put_impl _unsafe_index index_select masked_scatter
        masked_select one_hot put scatter scatter_add scatter_reduce take take_along_dim""",
    "losses": """binary_cross_entropy binary_cross_entropy_with_logits cross_entropy_loss huber_loss l1_loss mse_loss nll_loss_forward
        nll_loss2d_forward
        smooth_l1_loss""",
    "checks": "_assert_async _assert_scalar _assert_tensor_metadata result_type is_nonzero _foreach_add _foreach_mul",
}

NO_MACS: frozenset[str] = frozenset(f"aten::{word}" for words in _WORDS.values() for word in words.split()) | {
    "prim::device",
    "prim::layout",
    "profiler::_record_function_enter_new",
    "profiler::_record_function_exit",
    "torchvision::nms",  # compares areas; it learns and weighs nothing
    "torchvision::roi_pool",  # a maximum
    "torchvision::ps_roi_pool",  # an average: additions alone
}
