"""Peak memory of drawing, decoding and writing a clip, each length in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from gamegen.constants import FPS

_PROGRAM = """
import resource, sys
from pathlib import Path
from gamegen.bench.clip_memory import draw_as_a_generator
draw_as_a_generator(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@dataclass(frozen=True)
class ClipMemory:
    """Largest resident memory of a process that drew a clip of `num_frames`, in bytes."""

    num_frames: int
    peak_bytes: int

    def __str__(self) -> str:
        return f"{self.num_frames / FPS:g} s: {self.peak_bytes / 2**20:.0f} MiB"


def clip_memory(model: str, num_frames: int) -> ClipMemory:
    """Draws a clip in a new process and measures that; raises RuntimeError with its last line if it fails."""
    with TemporaryDirectory(prefix="gamegen-memory-") as folder:
        arguments = [sys.executable, "-c", _PROGRAM, model, str(num_frames), folder]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"a clip of {num_frames} frames failed: {done.stderr.strip().splitlines()[-1]}")
    # The kernel counts in KiB.
    return ClipMemory(num_frames, 1024 * int(done.stdout.split()[-1]))


def draw_as_a_generator(model: str, num_frames: int, folder: Path) -> None:
    """Draws a clip with a checkpoint every ten steps, decodes it to disk, and writes its MP4, as generators do."""
    import torch

    from gamegen.bench.workloads import PROMPT
    from gamegen.engine.variants import Variant
    from gamegen.generation.clip_files import ClipWriter
    from gamegen.generation.renderer import ClipConfig, ClipRenderer
    from gamegen.generation.spec import ClipSpec
    from gamegen.media.frame_file import FrameFile
    from gamegen.models.text import load_text_encoder

    torch.set_num_threads(1)
    renderer = ClipRenderer(Variant.parse(model).load_or_draw(), ClipConfig(max_drawings=1))
    config = renderer.model.config
    spec = ClipSpec(
        width=config.width,
        height=config.height,
        num_frames=num_frames,
        num_steps=config.sampling.num_steps,
        guidance_scale=config.sampling.guidance_scale,
        seed=1,
    )
    drawing = renderer.begin(spec, load_text_encoder(config.text_encoder).encode([PROMPT])[0])
    saved_step = 0
    while not drawing.is_done:
        renderer.step([drawing])
        if drawing.step - saved_step >= 10 and not drawing.is_done:
            made = drawing.checkpoint()
            name = f"{made.step}.safetensors"
            (folder / name).write_bytes(made.data)
            drawing.note_stored(name, made.num_finished)
            saved_step = made.step
    frames = FrameFile(folder / "frames", spec.size)
    for chunk in renderer.decode(drawing):
        frames.append(chunk)
    with ClipWriter.open(folder / "clip.mp4", spec.size, num_frames) as writer:
        for part in frames.parts(16):
            writer.add(part)
