"""A recipe: every number of one training run, read from a TOML file, strictly.

The published ones lie in `training/recipes`; any value can be overridden by its dotted name. A key that is not known
is an error: a misspelt learning rate must not cost days.
"""

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import tomli_w
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from ensemble.streams import STREAMS, Stream
from training.errors import RecipeError

RECIPES = Path(__file__).parent / "recipes"
"""The published recipes, one file each."""

NO_CAP = -1
"""A cap of a data set that caps nothing."""

Probability = Annotated[float, Field(ge=0, le=1)]
PerClass = tuple[float, float]


def _check_stream(name: str) -> str:
    known = [stream.name for stream in STREAMS if not stream.is_of_another_method]
    if name not in known:
        raise ValueError(f"{name!r} is no stream of the method; it must be {', '.join(known)}")
    return name


StreamName = Annotated[str, AfterValidator(_check_stream)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Optimiser(_Strict):
    """Adam with coupled L2, warm-up and cosine, counted in updates."""

    learning_rate: float = Field(gt=0)
    learning_rate_floor: float = Field(ge=0)
    warmup_updates: int = Field(ge=0)
    weight_decay: float = Field(ge=0)
    epochs: int = Field(ge=1)
    batch: int = Field(ge=1)
    accumulation: int = Field(ge=1)


class NetworkSizes(_Strict):
    """The base's sizes, and what is laid onto it."""

    hidden: int = Field(ge=64)
    blocks: int = Field(ge=1)
    rank: int = Field(ge=1)
    alpha: int = Field(ge=1)
    lora_dropout: float = Field(ge=0, lt=1)
    head: int = Field(ge=1)
    head_dropout: float = Field(ge=0, lt=1)

    @model_validator(mode="after")
    def _check_alpha(self) -> "NetworkSizes":
        if self.alpha != 2 * self.rank:
            raise ValueError(
                f"alpha is {self.alpha}, not twice the rank {self.rank}: files do not hold it, so the export takes that"
            )
        return self


class Loss(_Strict):
    """Focal loss; gamma 0 is cross-entropy."""

    gamma: float = Field(ge=0)


class Data(_Strict):
    """Which images of the data set an epoch holds, and in what order."""

    balanced: bool
    frames: int = Field(ge=1)
    test_frames: int = Field(ge=1)
    validation_share: float = Field(ge=0, lt=1)
    caps: dict[str, tuple[int, int]]
    drop_rates: dict[str, PerClass]

    @model_validator(mode="after")
    def _check_rates(self) -> "Data":
        for name, caps in self.caps.items():
            if not all(cap >= NO_CAP for cap in caps):
                raise ValueError(f"caps of {name} are {caps}; each must be a number of frames, or {NO_CAP} for no cap")
        for name, rates in self.drop_rates.items():
            if not all(0 <= rate <= 1 for rate in rates):
                raise ValueError(f"drop_rates of {name} are {rates}; each must lie in [0, 1]")
        return self


class Augmentation(_Strict):
    """Flip, rotation and degradation, in this order."""

    flip: Probability
    rotate: Probability
    degrees: float = Field(ge=0, le=180)
    degrade: Probability
    operation: Probability


class Run(_Strict):
    """How it is computed, and how often the run is looked at and saved."""

    precision: Literal["float32", "bfloat16"]
    activation_checkpointing: bool
    seed: int = Field(ge=0, lt=2**32)
    validations_per_epoch: int = Field(ge=0)
    checkpoint_updates: int = Field(ge=1)
    checkpoint_minutes: float = Field(gt=0)
    early_stop: int = Field(ge=0)


class Recipe(_Strict):
    """One training run. The TOML files explain the values."""

    stream: StreamName
    stage: Literal["head", "lora"]
    optimiser: Optimiser
    network: NetworkSizes
    loss: Loss
    data: Data
    augmentation: Augmentation
    run: Run

    @model_validator(mode="after")
    def _check_balance(self) -> "Recipe":
        if self.data.balanced and self.optimiser.batch < 2:
            raise ValueError("optimiser.batch is 1; data.balanced draws half a batch of each class: give 2 or more")
        return self

    @property
    def specification(self) -> Stream:
        """The stream whose checkpoint this run makes."""
        return next(stream for stream in STREAMS if stream.name == self.stream)

    def to_toml(self) -> str:
        """The resolved recipe, as a file that `read_recipe` reads."""
        return tomli_w.dumps(self.model_dump())


def published() -> list[str]:
    """Names of the published recipes."""
    return sorted(path.stem for path in RECIPES.glob("*.toml"))


def read_recipe(name_or_path: str, overrides: Iterable[str] = ()) -> Recipe:
    """Reads a recipe.

    Args:
        name_or_path: Name of a published one, or a TOML file.
        overrides: `section.key=value` each, as a line of TOML; a text may go without its quotes.

    Raises:
        RecipeError: There is none, it is no TOML, a key is unknown or absent, or a value is none it can have.
    """
    path = RECIPES / f"{name_or_path}.toml"
    if not path.is_file():
        path = Path(name_or_path)
    if not path.is_file():
        raise RecipeError(f"{name_or_path}: no such recipe; the published ones are {', '.join(published())}")
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not a TOML file: {error}") from error
    for override in overrides:
        _override(values, override)
    return parse_recipe(values, str(path))


def parse_recipe(values: Mapping[str, Any], source: str) -> Recipe:
    """A recipe from its values; `source` is named in errors."""
    try:
        return Recipe.model_validate(_lists_to_tuples(values))
    except ValidationError as error:
        raise RecipeError(f"{source}: " + "; ".join(_describe(each) for each in error.errors())) from error


def _override(values: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    if not equals:
        raise RecipeError(f"{override!r}: give an override as section.key=value, such as optimiser.epochs=3")
    try:
        given = tomllib.loads(override)
    except tomllib.TOMLDecodeError:
        try:
            given = tomllib.loads(f"{name} = {json.dumps(text.strip())}")
        except tomllib.TOMLDecodeError as error:
            raise RecipeError(
                f"{override!r}: {name!r} is no name of TOML ({error}); put a part with other signs than letters, "
                'digits, - and _ between quotes: data.caps."FaceForensics++"=[-1,2]'
            ) from error
    _merge(values, given, override)


def _merge(values: dict[str, Any], given: Mapping[str, Any], override: str) -> None:
    for key, value in given.items():
        if not isinstance(value, dict):
            values[key] = value
        elif isinstance(inner := values.setdefault(key, {}), dict):
            _merge(inner, value, override)
        else:
            raise RecipeError(f"{override!r}: {key} is a value, not a section")


def _lists_to_tuples(value: Any) -> Any:
    """Integers stay what they are; strict mode takes tuples, which TOML does not have."""
    if isinstance(value, Mapping):
        return {key: _lists_to_tuples(inner) for key, inner in value.items()}
    return tuple(value) if isinstance(value, list) else value


def _describe(error: Any) -> str:
    location = [str(part) for part in error["loc"]]
    name = ".".join(location)
    if error["type"] == "extra_forbidden":
        return f"unknown key {name}; known here are {', '.join(_known_keys(location[:-1]))}"
    if error["type"] == "missing":
        return f"{name} is missing"
    return f"{name} is {str(error['input'])[:60]!r}: {error['msg']}"


def _known_keys(sections: Iterable[str]) -> list[str]:
    model: type[BaseModel] = Recipe
    for section in sections:
        field = model.model_fields.get(section)
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
            break
        model = field.annotation
    return list(model.model_fields)
