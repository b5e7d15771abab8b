"""What the pages say of recipes, commands, dependencies and files is what is there."""

import doctest
import json
import re
import tomllib
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import package_model
import pytest
import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from typer.testing import CliRunner

from diapir.cli import app
from diapir.config import Recipe, load_recipe, parse_recipe, recipe_names
from diapir.models.modelcard import read_card
from diapir.models.packaged import packaged_model

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
page_id = [str(page.relative_to(ROOT)) for page in PAGES]
LIMITS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
PLAIN = {bool: "true or false", int: "whole number", float: "number", str: "text"}


def as_toml(value: Any) -> str:
    """Return a value as a recipe spells it; what differs from the defaults of a table only."""
    if value is None:
        return "null"
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        pairs = [(k, v) for k, v in value if v != fields[k].default]
        return "{ " + ", ".join(f"{k} = {as_toml(v)}" for k, v in pairs) + " }"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def allowed(annotation: Any, field: FieldInfo) -> str:
    """Return in words which values a field takes."""
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(allowed(arg, field) for arg in args)
    if origin is Literal:
        return ", ".join(f"`{as_toml(arg)}`" for arg in args)
    if origin is tuple and is_table(args[0]):
        return "list of tables"
    if origin is dict:
        return "table"
    if origin is tuple and not field.metadata:
        return "list of texts"
    if origin is tuple:
        shortest, longest = (rule for rule in field.metadata)
        return f"list of {shortest.min_length} to {longest.max_length} whole numbers"
    if annotation is type(None):
        return "`null`"
    if is_table(annotation):
        return "table"
    limits = [
        f"{word} {getattr(rule, sign)}"
        for rule in field.metadata
        for sign, word in LIMITS.items()
        if getattr(rule, sign, None) is not None
    ]
    return " ".join([PLAIN[annotation], " and ".join(limits)]).strip()


def sections() -> dict[str, type[BaseModel]]:
    """Return the tables of a recipe by their heading in docs/recipes.md."""
    found: dict[str, type[BaseModel]] = {"Top level": Recipe}
    for name, field in Recipe.model_fields.items():
        if not isinstance(field.default, BaseModel):
            continue
        found[f"`[{name}]`"] = section = type(field.default)
        for key, inner in section.model_fields.items():
            tables = [arg for arg in get_args(inner.annotation) if is_table(arg)]
            found |= {f"`{name}.{key}`": table for table in tables}
    return found


def is_table(annotation: Any) -> bool:
    """Return whether a type is a table of a recipe."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def key_rows(model: type[BaseModel]) -> list[str]:
    """Return the first three cells of each row that the page should have."""
    return [
        f"| `{name}` | {'required' if field.is_required() else f'`{as_toml(field.default)}`'} | "
        f"{allowed(field.annotation, field)} |"
        for name, field in model.model_fields.items()
        if not isinstance(field.default, BaseModel)
    ]


@pytest.mark.parametrize("heading", sections())
def test_every_key_of_a_recipe_is_explained(heading: str) -> None:
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    part = text.split(f"### {heading}\n", 1)[1].split("\n##", 1)[0]
    rows = re.findall(r"^(\| `.*?` \| (?:`.*?`|required) \| .*? \|) (.*) \|$", part, re.M)
    assert [row for row, _ in rows] == key_rows(sections()[heading])
    assert all(len(meaning) > 5 for _, meaning in rows)


def test_the_page_names_every_recipe() -> None:
    text = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([a-z0-9-]+)` \| [^`]*? \|$", text, re.M) == recipe_names()
    for name in recipe_names():
        assert load_recipe(name).description in text


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_recipes_on_the_pages_are_valid(page: Path) -> None:
    for block in re.findall(r"^```toml\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S):
        parse_recipe(tomllib.loads(block), where=page.name)


def anchors(page: Path) -> set[str]:
    """Return the names of the headings of a page, as links call them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = [re.sub(r"[^\w\- ]", "", line) for line in re.findall(r"^#+ (.*)$", text, re.M)]
    return {heading.lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for link, heading in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", text):
        if link.startswith(("http:", "https:", "mailto:")):
            continue
        there = page.parent / link if link else page
        assert there.exists(), f"{page.name} links to {link}"
        assert not heading or heading in anchors(there), f"{page.name}: {link}#{heading}"


def commands(page: Path) -> list[str]:
    """Return the `diapir ...` lines of the shell blocks of a page, continued lines joined."""
    text = page.read_text(encoding="utf-8")
    blocks = re.findall(r"^```(?:sh|console)\n(.*?)^```", text, re.M | re.S)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [m[1] for line in lines if (m := re.match(r"(?:\$ )?(?:\.venv/bin/)?diapir (.*)", line))]


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_on_the_pages_exist(page: Path) -> None:
    group = typer.main.get_command(app)
    for line in commands(page):
        command, words = group, re.sub(r"\s#.*", "", line).split()
        while words and hasattr(command, "commands") and not words[0].startswith("-"):
            assert words[0] in command.commands, f"{page.name}: diapir {line}"
            command = command.commands[words.pop(0)]
        known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help"}
        used = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
        assert used <= known, f"{page.name}: diapir {line}: {used - known}"


def test_the_packaged_model_carries_its_card() -> None:
    assert read_card(packaged_model()).notes == package_model.notes_of_page()


def test_scores_go_between_their_marks() -> None:
    record = next((ROOT / "docs" / "results-packaged").glob("cpu-imagenet-*"))
    page = "before\n<!-- scores:begin -->\nold\n<!-- scores:end -->\nafter\n"
    found = package_model.with_scores(page, record)
    score = json.loads((record / "metrics.json").read_text())["holdout"]["metrics"]["score"]
    assert f"| score | {score['value']:.3f} ({score['low']:.3f} to {score['high']:.3f}) |" in found
    assert "old" not in found
    assert package_model.with_scores(found, record) == found
    small = load_recipe("small")
    scored = load_recipe("small", ["split.holdout=0.2"])
    assert package_model.training_of(small) == package_model.training_of(scored)
    assert package_model.training_of(small) != package_model.training_of(load_recipe("cpu"))
    assert package_model.training_of(small) != package_model.training_of(load_recipe("demo"))


def test_every_verb_is_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    verbs = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert set(verbs) == set(re.findall(r"^\| `diapir ([a-z-]+)", text, re.M))


def test_every_dependency_has_a_reason_and_a_licence() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    for extra in project["project"]["optional-dependencies"].values():
        wanted += extra
    text = (ROOT / "docs" / "dependencies.md").read_text(encoding="utf-8")
    listed = re.findall(
        r"^\| \[([A-Za-z0-9-]+)\]\(https://[^|]+\) \| [^|]+ \| [^|]+ \|$", text, re.M
    )
    assert sorted(listed) == sorted({re.split(r"[<>=!~\[; ]", name)[0] for name in wanted})


def test_every_dependency_is_pinned_and_no_host_is_named() -> None:
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", line) for line in lines)
    pinned = {line.split("==")[0].lower().replace("_", "-") for line in lines}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name in [*project["dependencies"], *project["optional-dependencies"]["dev"]]:
        assert re.split(r"[<>=!~\[; ]", name)[0] in pinned


def test_the_tour_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diapir.config import ModelConfig
    from diapir.models.modelcard import ModelCard
    from diapir.models.modelfile import save_model
    from diapir.models.unet import SaltNet

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (session,) = re.findall(r"^```console\n(.*?)^```", text, re.M | re.S)
    for step in session.split("$ diapir ")[1:]:
        command, expected = step.split("\n", 1)
        output = CliRunner().invoke(app, command.split(), catch_exceptions=False).output
        output = "\n".join(line.rstrip() for line in output.splitlines()) + "\n"
        same = doctest.OutputChecker().check_output(expected, output, doctest.ELLIPSIS)
        assert same, f"diapir {command} says\n{output}"
    model = ModelConfig(encoder="scratch", scratch_channels=(2, 4), decoder_channels=(2,))
    save_model(Path("tour/model.safetensors"), SaltNet(model), ModelCard(Recipe(model=model), 0.5))
    (example,) = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    names: dict[str, Any] = {}
    exec(compile(example, "README.md", "exec"), names)  # noqa: S102
    assert names["masks"].shape == (480, 101, 101)


def test_the_tutorial_of_maps_is_read_as_it_stands() -> None:
    from volume_tutorial import HEADING, PAGE, read_steps

    steps, files = read_steps(PAGE.read_text(encoding="utf-8"), HEADING)
    shell = [step.text for step in steps if step.language == "sh"]
    followed = [line for line in shell if line.startswith("diapir ")]
    assert len(followed) == len(shell) - 1
    told = [f"diapir {line}" for line in commands(PAGE)]
    first = told.index(followed[0])
    assert told[first : first + len(followed)] == followed
    assert [step.name for step in steps].count("map") == 2
    assert [step.language for step in steps].count("python") == 1
    assert "tour/map/report.html" in files


def test_a_tutorial_is_followed_step_by_step(tmp_path: Path) -> None:
    from volume_tutorial import follow, read_steps

    page = (
        "## Other\n```sh\nfalse\n```\n## Way\nSee `tour/b`.\n```sh\nmkdir tour\n"
        "echo 1 \\\n > tour/a\n```\n```python\nopen('tour/b', 'w').write(open('tour/a').read())\n"
        "```\n## Next\n```sh\nfalse\n```\n"
    )
    steps, files = read_steps(page, "Way")
    assert len(follow(steps, tmp_path / "fresh")) == len(steps) == 3
    assert files == ["tour/b"]
    assert (tmp_path / "fresh" / "tour" / "b").read_text(encoding="utf-8") == "1\n"
    with pytest.raises(RuntimeError, match="false"):
        follow([*steps, steps[0]._replace(text="false")], tmp_path / "again")
