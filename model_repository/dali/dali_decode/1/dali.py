"""The pixels of `aesthetic_client.pixels` by DALI: nvJPEG decodes, the GPU resizes and crops.

Triton's DALI backend runs this file with its own Python and serialises the one pipeline in it. So
it imports DALI alone, and states again what the contract says; a test compares the two.
"""

from nvidia.dali import fn, pipeline_def, types
from nvidia.dali.plugin.triton import autoserialize

IMAGE_SIZE = 224  # pixels
INPUT = "encoded"  # one encoded image file a sample, as bytes
MAX_BATCH = 64
# For what nvJPEG leaves to the CPU: PNG, and the Huffman codes of JPEG. The config may override it.
THREADS = 8
ROWS, COLUMNS = 0, 1  # axes of an image


@autoserialize
@pipeline_def(
    batch_size=MAX_BATCH,
    num_threads=THREADS,
    device_id=0,
    output_dtype=[types.UINT8],
    output_ndim=[3],
)
def pixels(on_gpu=True):
    """`on_gpu` False is for a pipeline of `device_id` None, which does the same on the CPU."""
    encoded = fn.external_source(name=INPUT, device="cpu", dtype=types.UINT8, ndim=1)
    image = fn.decoders.image(
        encoded,
        device="mixed" if on_gpu else "cpu",
        output_type=types.RGB,
        adjust_orientation=False,  # the reference ignores EXIF
        jpeg_fancy_upsampling=True,  # chroma as libjpeg-turbo, and so the reference, brings it up
    )
    size = fn.peek_image_shape(encoded, adjust_orientation=False, dtype=types.INT32)[0:2]
    # The shorter side becomes exact, the longer one is truncated.
    resized = IMAGE_SIZE * size // fn.reductions.min(size)
    # Width, then height, each rounded to bytes: the reference's two passes. In one go, overshoot at
    # edges would survive from the first into the second.
    image = resize(image, COLUMNS, size[COLUMNS], resized, on_gpu)
    image = resize(image, ROWS, size[ROWS], resized, on_gpu)
    # Half the surplus on either side, rounded half to even.
    surplus = resized - IMAGE_SIZE
    half = surplus // 2
    start = half + (surplus & 1) * (half & 1)
    return fn.slice(image, start=start, shape=[IMAGE_SIZE, IMAGE_SIZE], axes=(ROWS, COLUMNS))


def resize(image, axis, length, resized, on_gpu):
    """One axis of `image` from `length` to that of `resized`: bicubic, antialiased, uint8.

    Beyond an edge DALI repeats the last pixel; the reference leaves out what is not there, and
    divides by the weights that remain. So the repeated pixels' share is taken away again: at the
    edges that is up to 11/255.
    """
    near = repeated_share(axis, length, resized[axis])
    near = near.gpu() if on_gpu else near
    far = fn.flip(near, horizontal=axis == COLUMNS, vertical=axis == ROWS)
    first = fn.slice(image, start=[0], shape=[1], axes=(axis,))
    last = fn.slice(image, start=length - 1, shape=[1], axes=(axis,))
    image = cubic(image, axis, resized[axis])
    image = (image - near * first - far * last) / (1.0 - near - far)
    return fn.cast(image, dtype=types.UINT8)  # rounds, saturates


def repeated_share(axis, length, resized):
    """How much of each resized pixel's weight lies before the first pixel of its axis."""
    before = fn.constant(fdata=1.0, shape=[1, 1, 1], layout="HWC")
    shape = fn.stack(*(length if each == axis else 1 for each in range(3)))
    image = fn.zeros(shape=shape, dtype=types.FLOAT)
    edge = fn.cat(before, fn.reshape(image, layout="HWC"), axis=axis)
    roi = {
        "roi_start": [float(axis == ROWS), float(axis == COLUMNS)],
        "roi_end": fn.cast(
            fn.stack(*(length + 1 if each == axis else 1 for each in (ROWS, COLUMNS))),
            dtype=types.FLOAT,
        ),
    }
    return cubic(edge, axis, resized, **roi)


def cubic(image, axis, length, **roi):
    side = {"resize_y" if axis == ROWS else "resize_x": fn.cast(length, dtype=types.FLOAT)}
    return fn.resize(
        image,
        **side,
        **roi,
        mode="stretch",
        interp_type=types.INTERP_CUBIC,
        antialias=True,
        dtype=types.FLOAT,
    )
