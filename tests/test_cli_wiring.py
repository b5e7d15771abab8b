"""Every option of every verb reaches the work that the verb begins, and defaults are the same.

The work itself is replaced by what writes down how it was called. Options are taken from the
command line as it is, so that a new one is tried, too.
"""

import dataclasses
import importlib
import inspect
import re
import sys
import webbrowser
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import typer

from diapir.cli import main
from diapir.cli.app import app
from diapir.io.segy import SegyOptions

# What each verb begins: words that it needs, and its functions, of which the last ends the test.
WORK: dict[str, tuple[list[str], list[str]]] = {
    "demo": ([], ["runs.survey_demo.run_survey_demo", "runs.demo.run_demo"]),
    "describe": (["data"], ["runs.describe.describe_data"]),
    "mosaic": (["data"], ["runs.mosaic.write_mosaics"]),
    "train": (["demo"], ["runs.train.resume_run", "runs.train.train_recipe"]),
    "ensemble": (["run"], ["runs.ensemble.make_ensemble"]),
    "evaluate": (["--data", "data"], ["runs.evaluate.evaluate_models"]),
    "predict": (["line.png", "out"], ["runs.predict.predict_images"]),
    "submit": (["--data", "data"], ["runs.predict.submit"]),
    "check-submission": (
        ["file.csv", "--data", "data"],
        ["runs.check_submission.check_submission_file"],
    ),
    "export": ([], ["inference.predict.load_predictor", "export.onnx.export_model"]),
    "map": (["survey.sgy", "out"], ["runs.map.map_survey"]),
    "finetune": (["--volume", "survey.sgy", "--labels", "lines"], ["runs.finetune.finetune_model"]),
    "info": (["model.safetensors"], ["models.modelcard.read_card"]),
    "doctor": (["survey.sgy"], ["progress.pulsing", "io.segy_doctor.diagnose"]),
    "ingest": (["survey.sgy", "survey.zarr"], ["io.ingest.ingest"]),
    "serve": ([], ["cli.serve._run"]),
    "view": (
        ["survey.sgy"],
        ["serve.viewer.library.open_library", "serve.viewer.server.run_viewer"],
    ),
    "results": (["run"], ["runs.comparison.write_comparison", "runs.results.write_results"]),
    "recipes": ([], []),
    "synth tiles": (["out"], ["runs.synth.draw_tiles"]),
    "synth survey": (["out.sgy"], ["runs.synth.draw_survey"]),
}

# What an option is given: by verb and option, or by option, or by what it takes.
VALUES: dict[str, str | tuple[str, ...]] = {
    "accelerator": "gpu",
    "allow_host": "diapir.example",
    "byte_order": "little",
    "clip": ("3.5", "96.5"),
    "device": "cuda",
    "devices": "3",
    "engine": "openvino",
    "export format_": "openvino",
    "first": ("11", "22"),
    "format": "3",
    "host": "192.0.2.1",
    "on": "hold-out",
    "override": "train.epochs=77",
    "part": "all",
    "precision": "bf16",
    "scheduler": "tcp://cluster:8786",
    "size": ("26", "27", "28"),
    "spacing": ("12.5", "13.5"),
    "step": ("2", "3"),
    "title": "What was tried",
    "unit": "ft",
    "velocity": "2345.5",
    "window": "333",
}

# What an option needs beside it, in place of the verb's own words where these do not go with it.
BESIDE: dict[str, list[str]] = {
    "demo model": ["--survey"],
    "predict masks": ["line.png", "out", "--probs"],
    "train resume": [],
    "results baseline": ["run", "--compare"],
    "results on": ["run", "--compare"],
    "results groups": ["run", "--compare"],
    "serve jobs": ["--surveys", "surveys"],
}

# What ends as something else than it was given as.
TURNED = {
    "serve max_mib", "serve token_file", "synth tiles number", "synth tiles test_share",
    "train override", "train resume",
}  # fmt: skip

# What says how a result is shown, which the work does not know.
SHOWN = {"as_json", "doctor text", "view browser"}

# Arguments whose default suits those who call from Python.
FOR_PYTHON = {"progress", "shown", "say", "advance", "ready"}

# Arguments that a verb sets itself.
BY_THE_VERB = {"export device"}


class _ReachedError(Exception):
    """The work of a verb began."""


Calls = list[tuple[Callable[..., Any], inspect.BoundArguments]]


def _verbs() -> dict[str, Any]:
    """Return every verb of the command line by its words."""
    group: Any = typer.main.get_command(app)
    found = dict(group.commands)
    for name, verb in found.pop("synth").commands.items():
        found[f"synth {name}"] = verb
    return found


VERBS = _verbs()


def _cases() -> Iterator[tuple[str, str, str]]:
    """Yield verb, option and flag: both flags of an option that can be turned on and off."""
    for verb, command in VERBS.items():
        for option in command.params:
            if not option.opts[0].startswith("-") or {option.name, f"{verb} {option.name}"} & SHOWN:
                continue
            if option.default is None and option.secondary_opts:
                yield verb, option.name, option.opts[0]
            turned = option.default is False or not option.secondary_opts
            yield verb, option.name, (option.opts if turned else option.secondary_opts)[-1]


CASES = list(_cases())


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Calls]:
    """Return what calls the command line and tells how the work was called."""
    monkeypatch.chdir(tmp_path)
    for name in ("surveys", "data"):
        (tmp_path / name).mkdir()
    (tmp_path / "chosen-token_file").write_text("a-token-that-is-long-enough-to-be-taken\n")

    def call(verb: str, *words: str) -> Calls:
        found: Calls = []
        functions = WORK[verb][1]

        def replace(name: str, *, last: bool) -> None:
            module, _, attribute = f"diapir.{name}".rpartition(".")
            owner = importlib.import_module(module)
            function = getattr(owner, attribute)

            def replaced(*args: Any, **kwargs: Any) -> Any:
                bound = inspect.signature(function).bind(*args, **kwargs)
                found.append((function, bound))
                if last or attribute in ("run_survey_demo", "resume_run", "write_comparison"):
                    raise _ReachedError
                return _ANYTHING

            patched.setattr(owner, attribute, replaced)

        with monkeypatch.context() as patched:
            for name in functions:
                replace(name, last=name == functions[-1])
            patched.setattr(sys, "argv", ["diapir", *verb.split(), *words])
            with pytest.raises(_ReachedError):
                main()
        return found

    return call


class _Anything:
    """Stands for what a function returns; the work goes on with it."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self

    def __iter__(self) -> Iterator[Any]:
        return iter((self, self))

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def __repr__(self) -> str:
        return "anything"


_ANYTHING = _Anything()


def _told(calls: Calls) -> str:
    """Return the calls as text, with what a dataclass would not print."""

    def plain(value: Any) -> Any:
        return dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value

    text = "\n".join(
        f"{function.__name__} { {name: plain(value) for name, value in b.arguments.items()} }"
        for function, b in calls
    )
    return re.sub(r" at 0x[0-9a-f]+", "", text)


def _values(verb: str, option: Any) -> tuple[str, ...]:
    """Return what an option is given, and nothing for a flag."""
    if option.is_flag:
        return ()
    value = VALUES.get(f"{verb} {option.name}", VALUES.get(option.name))
    if value is not None:
        return value if isinstance(value, tuple) else (value,)
    kind = option.type_descriptor.annotation
    if get_origin(kind) is list:
        (kind,) = get_args(kind)
    if get_origin(kind) is Literal:
        return (next(str(each) for each in get_args(kind) if each != option.default),)
    if kind is int:
        return ("57",)
    if kind is float:
        return ("0.375",)
    assert kind is Path, f"give a value for --{option.name} of {verb} in VALUES"
    return (f"chosen-{option.name}",)


def test_every_verb_is_tried() -> None:
    assert set(WORK) == set(VERBS)
    names = {option.name for verb in VERBS.values() for option in verb.params}
    beyond = {name.rpartition(" ")[2] for name in [*VALUES, *BESIDE, *TURNED, *SHOWN]}
    assert beyond <= names, "options that are no more"


@pytest.mark.parametrize(("verb", "name", "flag"), CASES, ids=[f"{c[0]} {c[2]}" for c in CASES])
def test_an_option_reaches_the_work(
    calls: Callable[..., Calls],
    verb: str,
    name: str,
    flag: str,
) -> None:
    option = next(option for option in VERBS[verb].params if option.name == name)
    values, full = _values(verb, option), f"{verb} {name}"
    words = BESIDE.get(full, WORK[verb][0])
    plain = _told(calls(verb, *(words or WORK[verb][0])))
    if flag in words:  # what must be given is given anew
        place = words.index(flag)
        words = words[:place] + words[place + 2 :]
    given = _told(calls(verb, *words, flag, *values))
    assert given != plain, f"{flag} of {verb} changes nothing"
    if full not in TURNED:
        for value in values:
            assert value in given
            assert given.count(value) > plain.count(value)


@pytest.mark.parametrize("verb", [verb for verb, (_, functions) in WORK.items() if functions])
def test_defaults_are_those_of_the_work(calls: Callable[..., Calls], verb: str) -> None:
    for function, bound in calls(verb, *WORK[verb][0]):
        for name, value in bound.arguments.items():
            default = inspect.signature(function).parameters[name].default
            _check_default(verb, name, value, default)


def _check_default(verb: str, name: str, value: Any, default: Any) -> None:
    if name in FOR_PYTHON or f"{verb} {name}" in BY_THE_VERB:
        return
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            made = field.default_factory is not dataclasses.MISSING
            usual = field.default_factory() if made else field.default
            _check_default(verb, field.name, getattr(value, field.name), usual)
    elif value == vars(SegyOptions()):
        assert not default
    elif default is not inspect.Parameter.empty and default is not dataclasses.MISSING:
        assert value == default or not (value or default), f"{name} of {verb}"


@pytest.mark.parametrize("wanted", [True, False])
def test_the_browser_opens_unless_told_not_to(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wanted: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    opened: list[str] = []
    library = importlib.import_module("diapir.serve.viewer.library")
    server = importlib.import_module("diapir.serve.viewer.server")
    monkeypatch.setattr(library, "open_library", lambda *_, **__: None)
    monkeypatch.setattr(server, "run_viewer", lambda *_, ready, **__: ready("http://here"))
    monkeypatch.setattr(webbrowser, "open", opened.append)
    words = ["view", "survey.sgy", *([] if wanted else ["--no-browser"])]
    monkeypatch.setattr(sys, "argv", ["diapir", *words])
    with pytest.raises(SystemExit):
        main()
    assert opened == (["http://here"] if wanted else [])
