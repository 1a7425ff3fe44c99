"""What Triton has to know of the streams, written from their specifications (`python -m export.configure`).

A stream's own configurations come from templates. In the configurations of the steps around the streams, the lines
between `# streams: PART` and `# streams: end` do; the rest of those files is written by hand.
"""

import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from string import Template

import click

from ensemble.streams import STREAMS, Stream
from export.early import evidence, order
from export.layout import CONFIGURATIONS, SKELETON, VERSION

_SHOWN = {
    "centre": "the centre of the image",
    "resize": "the whole image",
    "face": "the face crop",
    "face_resize": "the whole face crop",
}

_OUTPUTS = """\
  { name: "LOGITS" data_type: TYPE_FP32 dims: [ 2 ] },
  { name: "FEATURES" data_type: TYPE_FP32 dims: [ -1 ] },
  # Of the CLS token over the patches, row by row: mean over the heads of DINOv2's last block, summing to 1.
  { name: "ATTENTION" data_type: TYPE_FP32 dims: [ -1 ] }"""

_LOGITS = '  { name: "LOGITS" data_type: TYPE_FP32 dims: [ 2 ] }'

_STEP = """\
    {
      model_name: "$name"
      model_version: -1
      input_map { key: "PIXELS" value: "${name}_pixels" }
      output_map { key: "LOGITS" value: "${name}_logits" }
    },
"""


@click.command("export.configure", context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option(
    "--repository",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=SKELETON,
    show_default="model_repository of the checkout",
    help="Model repository to write to.",
)
def main(repository: Path) -> None:
    """Write the configurations that follow from ensemble/streams.py, and remove the models of other streams.

    The export does so in any repository that it writes to; in the checkout the files are kept under version control.
    """
    for path in configure(repository):
        click.echo(path)


def configure(repository: Path, streams: Sequence[Stream] = STREAMS) -> list[Path]:
    """Bring a repository's configurations up to the streams.

    Args:
        repository: Laid out already.
        streams: Which.

    Returns:
        The files that were written and the folders that were removed, because they were not as they should be.

    Raises:
        ValueError: A file asks for a part that there is not.
    """
    changed = [*_remove_others(repository, {stream.name for stream in streams})]
    for stream in streams:
        (repository / stream.name / VERSION).mkdir(parents=True, exist_ok=True)
        for name, text in stream_configurations(stream).items():
            changed += _write(repository / stream.name / name, text)
    for path in sorted(repository.glob("*/config.pbtxt")):
        changed += _write(path, with_parts(path.read_text(encoding="utf-8"), streams))
    return changed


def stream_configurations(stream: Stream) -> dict[str, str]:
    """Give a stream's configurations by their paths in its folder."""
    network = (
        "a network of another method"
        if stream.is_of_another_method
        else "DINOv2 and CLIP"
        if stream.has_clip
        else "DINOv2"
    )
    values = {
        "name": stream.name,
        "pixels": stream.pixels,
        "description": f"{stream.title} stream: {network} on {_SHOWN[stream.framing]}.",
        "outputs": _LOGITS if stream.is_of_another_method else _OUTPUTS,
    }
    files = {}
    for source in sorted(CONFIGURATIONS.glob("stream*.pbtxt")):
        _, *other, _ = source.name.split(".")
        target = f"configs/{other[0]}.pbtxt" if other else "config.pbtxt"
        files[target] = Template(source.read_text(encoding="utf-8")).substitute(values)
    return files


def with_parts(text: str, streams: Sequence[Stream]) -> str:
    """Write the parts of a configuration that follow from the streams anew; the rest stays.

    Raises:
        ValueError: It asks for a part that there is not.
    """

    def write(match: re.Match[str]) -> str:
        if match["part"] not in _PARTS:
            raise ValueError(f"there is no part {match['part']!r} of a configuration: {', '.join(_PARTS)}")
        return f"{match['begin']}{''.join(_PARTS[match['part']](streams))}{match['end']}"

    pattern = r"(?P<begin>^ *# streams: (?P<part>.*)\n)(?:.*\n)*?(?P<end>^ *# streams: end$)"
    return re.sub(pattern, write, text, flags=re.MULTILINE)


def _each(template: str, chosen: Callable[[Stream], bool] = lambda stream: True) -> Callable[..., Iterator[str]]:
    def lines(streams: Sequence[Stream]) -> Iterator[str]:
        for stream in filter(chosen, streams):
            yield Template(template).substitute(
                name=stream.name,
                pixels=stream.pixels,
                PIXELS=stream.pixels_name,
                LOGITS=stream.logits_name,
                count=len(streams),
            )

    return lines


def _of_the_image(stream: Stream) -> bool:
    return not stream.sees_face


def _of_the_face(stream: Stream) -> bool:
    return stream.sees_face


def _values(streams: Sequence[Stream]) -> Iterator[str]:
    for name in ("STREAM_PROBABILITIES", "STREAM_VOTES"):
        yield f'  {{ name: "{name}" data_type: TYPE_FP32 dims: [ {len(streams)} ] }},\n'


_PIXELS = '  { name: "$PIXELS" data_type: TYPE_UINT8 dims: [ $pixels, $pixels, 3 ] },\n'
_PIXELS_MAP = '      output_map { key: "$PIXELS" value: "${name}_pixels" }\n'

_LOGITS_INPUT = '  { name: "$LOGITS" data_type: TYPE_FP32 dims: [ 2 ] },\n'
_LOGITS_MAP = '      input_map { key: "$LOGITS" value: "${name}_logits" }\n'
_WARM_UP = '    inputs { key: "$LOGITS" value { data_type: TYPE_FP32 dims: [ 2 ] zero_data: true } }\n'


def _early_steps(streams: Sequence[Stream]) -> Iterator[str]:
    early, _ = order(streams)
    if any(map(_of_the_face, early)):
        yield Template(_FACE_STEP).substitute(pixels="".join(_each(_PIXELS_MAP, _of_the_face)(streams)))
    yield from _each(_STEP)(early)


def _evidence(template: str) -> Callable[[Sequence[Stream]], Iterator[str]]:
    def lines(streams: Sequence[Stream]) -> Iterator[str]:
        for each in evidence(streams):
            yield Template(template).substitute(vars(each), zeros=each.zeros)

    return lines


def _late(streams: Sequence[Stream]) -> Iterator[str]:
    _, late = order(streams)
    yield f'parameters {{ key: "late" value {{ string_value: "{",".join(stream.name for stream in late)}" }} }}\n'


_FACE_STEP = """\
    {
      model_name: "face_crop"
      model_version: -1
      input_map { key: "IMAGE" value: "IMAGE" }
      input_map { key: "DECODED" value: "decoded" }
      input_map { key: "BOX" value: "box" }
      input_map { key: "IMAGE_STATUS" value: "image_status" }
      input_map { key: "PERMIT" value: "permit" }
$pixels\
      output_map { key: "FACE" value: "face" }
      output_map { key: "FACE_CONFIDENCE" value: "face_confidence" }
      output_map { key: "FACE_SOURCE" value: "face_source" }
      output_map { key: "STATUS" value: "status" }
    },
"""
_EVIDENCE_INPUT = '  { name: "$name" data_type: $kind dims: [ $dims ] },\n'
_EVIDENCE_MAP = '      input_map { key: "$name" value: "$tensor" }\n'
_EVIDENCE_WARM_UP = '    inputs { key: "$name" value { data_type: $kind dims: [ $dims ] $zeros } }\n'

_PARTS: Mapping[str, Callable[[Sequence[Stream]], Iterator[str]]] = {
    "pixels of the image": _each(_PIXELS, _of_the_image),
    "pixels of the face": _each(_PIXELS, _of_the_face),
    "pixels of the image as outputs": _each(_PIXELS_MAP, _of_the_image),
    "pixels of the face as outputs": _each(_PIXELS_MAP, _of_the_face),
    "steps": _each(_STEP),
    "early steps": _early_steps,
    "logits": _each(_LOGITS_INPUT),
    "logits as inputs": _each(_LOGITS_MAP),
    "warm-up": _each(_WARM_UP),
    "values": _values,
    "evidence": _evidence(_EVIDENCE_INPUT),
    "evidence as inputs": _evidence(_EVIDENCE_MAP),
    "warm-up of the evidence": _evidence(_EVIDENCE_WARM_UP),
    "late": _late,
}


def _remove_others(repository: Path, names: set[str]) -> Iterator[Path]:
    """Remove the models of streams that there are no more."""
    for path in sorted(repository.glob("*/config.pbtxt")):
        if path.parent.name not in names and 'name: "LOGITS"' in path.read_text(encoding="utf-8"):
            shutil.rmtree(path.parent)
            yield path.parent


def _write(path: Path, text: str) -> list[Path]:
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return []
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return [path]


if __name__ == "__main__":
    sys.exit(main(prog_name="python -m export.configure"))
