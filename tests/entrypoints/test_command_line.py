"""What all commands have in common: names, groups of flags, one spelling for one thing, and docs that say what the
parsers say."""

import argparse
import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

from nnunetv2_stitch.entrypoints import common, parties
from nnunetv2_stitch.entrypoints.common import GROUPS

ROOT = Path(__file__).resolve().parents[2]
ENTRY = re.compile(r'^(nnUNetv2_\w+) = "nnunetv2_stitch\.entrypoints\.(\w+):(\w+)"$', re.MULTILINE)
#: Entry points of pyproject.toml: command -> module, function.
SCRIPTS = {name: (module, function) for name, module, function in ENTRY.findall((ROOT / "pyproject.toml").read_text())}
OLD = {"nnUNetv2_merge_guided": "nnUNetv2_merge_party", "nnUNetv2_train_from_merged": "nnUNetv2_train_party"}
COMMANDS = [name for name in SCRIPTS if name not in OLD]
PAGES = [(ROOT / "docs" / "reference" / name).read_text() for name in ("commands.md", "evaluation.md")]
OLD_FLAGS = {  # command -> old spelling -> the spelling of all commands
    "merge_party": {"-o": "-o_p", "-steps": "-search_steps", "-rate": "-lr"},
    "train_party": {"-o": "-o_p"},
    "train_stitch": {"-guided_steps": "-search_steps"},
}


def module_of(command: str):
    return importlib.import_module(f"nnunetv2_stitch.entrypoints.{SCRIPTS[command][0]}")


def shown(command: str) -> list[argparse.Action]:
    """The arguments in `--help`."""
    actions = module_of(command).build_parser()._actions
    return [a for a in actions if a.help is not argparse.SUPPRESS and a.dest != "help"]


def flags(command: str) -> dict[str, argparse.Action]:
    return {flag: action for action in shown(command) for flag in action.option_strings}


def test_every_entry_point_of_the_package_is_looked_at_here():
    script = (ROOT / "pyproject.toml").read_text().partition("[project.scripts]\n")[2].partition("\n[")[0]
    assert len(SCRIPTS) == script.count(" = ") and OLD.keys() <= SCRIPTS.keys()


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_is_named_after_stitches_or_parties(command):
    assert "stitch" in command or "party" in command
    assert module_of(command).build_parser().prog == command


@pytest.mark.parametrize("command", SCRIPTS)
def test_every_command_runs_in_the_one_place_that_hears_interrupts_and_words_errors(command):
    module, function = module_of(command), SCRIPTS[command][1]
    tree = ast.parse(inspect.getsource(getattr(module, function)))
    called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    assert called & {"run", "run_parsed"} or called & {name for _, name in SCRIPTS.values()}, called


@pytest.mark.parametrize("old", OLD)
def test_an_old_name_does_the_same_and_says_the_new_one_in_one_line(old, monkeypatch, capsys):
    said = {}
    for command in (old, OLD[old]):
        monkeypatch.setattr("sys.argv", [command, "--help"])
        with pytest.raises(SystemExit) as left:
            getattr(module_of(command), SCRIPTS[command][1])()
        assert left.value.code == 0
        said[command] = capsys.readouterr()
    assert said[old].out == said[OLD[old]].out and said[OLD[old]].err == ""
    assert said[old].err == f"{old} is now called {OLD[old]}; the old name goes on to work\n"


@pytest.mark.parametrize("old", OLD)
def test_nothing_sends_a_user_to_an_old_name(old):
    """Neither help nor messages nor pages, but for the table of old names and the line about it."""
    files = [*(ROOT / "nnunetv2_stitch").rglob("*.py"), *(ROOT / "trainers").rglob("*.py"),
             *(ROOT / "entrypoints").rglob("*.py"), *(ROOT / "docs").rglob("*.md")]
    lines = [(f.name, line) for f in files for line in f.read_text().splitlines()
             if old in line and f.name != "troubleshooting.md"]  # which explains the line about it
    assert len(lines) == 2, lines
    assert all("say_renamed(" in line or line.startswith(f"| `{old}` | `{OLD[old]}`") for _, line in lines)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_is_in_a_group_and_the_groups_are_in_order(command):
    parser = module_of(command).build_parser()
    named = [g for g in parser._action_groups if any(a.help is not argparse.SUPPRESS and a.dest != "help"
                                                     for a in g._group_actions)]
    titles = [g.title for g in named]
    assert titles == [t for t in GROUPS if t in titles] and titles
    assert {a.dest for g in named for a in g._group_actions} >= {a.dest for a in shown(command)}
    assert all(parser.format_help().count(f"\n{title}:\n  {meaning}\n") == (title in titles)
               for title, meaning in GROUPS.items())


@pytest.mark.parametrize("command", COMMANDS)
def test_a_flag_that_is_shown_is_read(command):
    """Kind: a flag is taken where it means something, and nowhere else."""
    module = module_of(command)
    helpers = [f for f in (common.run_parsed, common.ready_device) if f.__name__ in vars(module)]
    sources = [inspect.getsource(found) for found in (module, parties, *helpers)]
    read = {n.attr for source in sources for n in ast.walk(ast.parse(source))
            if isinstance(n, ast.Attribute) and isinstance(n.value, ast.Name) and n.value.id == "args"}
    assert {a.dest for a in shown(command)} <= read


#: What help says of a thing -> the flags for it.
THINGS = {
    r"(name of|are called).*plans|plans.* (written|are called)": {"-o_p"}, r"\blearning rate": {"-lr"},
    r"steps of the search": {"-search_steps"}, r"^epochs": {"-epochs", "-baseline_epochs"},
    r"iterations per epoch": {"-iterations", "-baseline_iterations"}, r"^seed\b|of the bootstrap": {"-seed"},
    r"^(continue|go on)|^keep what.* predicted": {"--c", "--continue_prediction"},
    r"^(A's |B's |the partner's )?checkpoint (of|\.)|^checkpoint\.": {"-chk", "-chk_a", "-chk_b"},
    r"no mirroring": {"--disable_tta"}, r"surface Dice": {"-tolerance"}, r"^labels that": {"-label_map"},
    r"channels that": {"-channel_map"}, r"of the worst cases|^worst cases": {"-worst"},
}
#: The value that help names -> the flags that take such a value.
VALUES = {"PLANS_NAME": {"-o_p"}, "FOLD": {"-f", "-f_b"}, "DATASET": {"-d"}, "CONFIG": {"-c"}, "R": {"-lr"},
          "TRAINER": {"-tr", "-tr_a", "-tr_b"}, "PLANS": {"-p", "-p_a", "-p_b"}}


@pytest.mark.parametrize("command", COMMANDS)
def test_one_thing_has_one_spelling(command):
    """Kind: whoever knows the flag of one command knows that of the next."""
    for action in shown(command):
        for flag in action.option_strings:
            for thing, those in THINGS.items():
                assert flag in those or not re.search(thing, action.help), f"{flag}: {action.help}"
            for value, those in VALUES.items():
                assert (flag in those) == (action.metavar == value), f"{flag} {action.metavar}"


def test_a_flag_takes_the_same_value_in_all_commands():
    """Of two meanings there is one flag: -tolerance, of retention in standard errors and of the surface Dice in mm. Of
    one or of several partners, -f_b is the same fold."""
    kinds: dict[str, set] = {}
    for command in COMMANDS:
        for flag, action in flags(command).items():
            if flag not in ("-tolerance", "-f_b"):
                kinds.setdefault(flag, set()).add((action.type, tuple(action.choices or ()), type(action)))
    assert {flag: found for flag, found in kinds.items() if len(found) > 1} == {}


@pytest.mark.parametrize("command", OLD_FLAGS)
def test_old_spellings_go_on_to_work_and_are_not_shown(command):
    parser = module_of(f"nnUNetv2_{command}").build_parser()
    needed = [x for a in parser._actions if a.required and a.option_strings for x in (a.option_strings[0], "0")]
    for old, new in OLD_FLAGS[command].items():
        assert old not in flags(f"nnUNetv2_{command}") and f" {old} " not in parser.format_help()
        given = [vars(parser.parse_args([*needed, flag, "7"])) for flag in (old, new)]
        assert given[0] == given[1] != vars(parser.parse_args(needed))


# ---- the pages and the parsers ----

def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def tables(text: str) -> list[list[str]]:
    """Rows about flags, without the heads of the tables."""
    return [cells(line) for line in text.splitlines() if re.match(r"\| `?(-|none)", line) and "---" not in line]


def sections(level: str) -> dict[str, str]:
    found = {}
    for page in PAGES:
        for part in re.split(rf"^{level} ", page, flags=re.MULTILINE)[1:]:
            title, _, text = part.partition("\n")
            found[title] = re.split(r"^#{1,2} ", text, flags=re.MULTILINE)[0]
    return found


def documented(command: str) -> dict[str, tuple[str, str]]:
    """Flag -> how the page writes it with its value, and the page's default: of the command's section and of what that
    refers to."""
    section = sections("##")[command]
    rows = [r for r in tables(section) if len(r) == 3]
    rows += tables(sections("###")["Parties"]) if "#parties" in section else []
    rows += [r for r in tables(sections("##")["Flags common to commands"])
             if len(r) == 4 and f"`{command.removeprefix('nnUNetv2_')}`" not in r[3]]
    return {span.split()[0]: (span.replace("\\|", "|"), row[1])
            for row in rows for span in re.findall(r"`(-[^`]*)`", row[0])}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_has_every_flag_of_the_parser_and_no_other(command):
    assert documented(command).keys() == flags(command).keys()


@pytest.mark.parametrize("command", COMMANDS)
def test_the_page_writes_values_and_defaults_as_the_parser_has_them(command):
    """A default that a page names as a word of code or a number is the parser's; where the parser leaves it to the
    library, it is the one that `--help` names."""
    parser, page = module_of(command).build_parser(), documented(command)
    for flag, action in flags(command).items():
        written, default = page[flag]
        assert (" " in written) == (action.nargs != 0), f"{flag} takes a value or takes none"
        if action.choices:
            assert written == f"{flag} {{{','.join(map(str, action.choices))}}}"
        assert (default == "required") == action.required, flag
        assert (default == "off") == (action.nargs == 0), flag
        literal = re.match(r"`([^`]+)`|(\d[\d.]*)", default)
        value = action.default[0] if isinstance(action.default, list) and action.default else action.default
        if action.required or action.nargs == 0 or not literal:
            assert action.required or value in (None, False, [], ""), f"{flag}: {default!r} is not {value!r}"
            continue
        literal = literal[1] or literal[2]
        if value is None:
            named = (action.help % vars(action) if "%(" in action.help else action.help).rpartition("Default: ")[2]
            assert re.search(rf"(?<!\w){re.escape(literal)}(?!\w)", named), f"{flag}: {literal} is not in {named!r}"
        else:
            assert literal == str(value) or float(literal) == float(value), f"{flag}: {default!r} is not {value!r}"
    assert parser.description.endswith(".")


def test_every_entry_point_is_on_the_pages():
    assert [c for c in COMMANDS if c not in sections("##")] == []
    table = [cells(line) for line in sections("###")["Old names"].splitlines() if line.startswith("| `")]
    assert [[f"`{old}`", f"`{new}`"] for old, new in OLD.items()] == [row for row in table if " of " not in row[0]]
    for command, spellings in OLD_FLAGS.items():
        for old, new in spellings.items():
            row, = (row for row in table if f"`{old}`" in row[0])
            assert f"`nnUNetv2_{command}`" in row[0] and row[1] == f"`{new}`"


# ---- what users are told to type ----

def texts() -> list[tuple[str, str]]:
    """Where, and the text: the pages, and every string of the package with its values left out."""
    pages = [(str(f.relative_to(ROOT)), f.read_text().replace("\\\n", " "))
             for f in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))]
    strings = []
    for file in (f for folder in ("nnunetv2_stitch", "trainers", "entrypoints") for f in (ROOT / folder).rglob("*.py")):
        tree = ast.parse(file.read_text())
        joined = [n for n in ast.walk(tree) if isinstance(n, ast.JoinedStr)]
        parts = {id(part) for node in joined for part in node.values}
        strings += [(file.name, "".join(p.value if isinstance(p, ast.Constant) else "{}" for p in n.values))
                    for n in joined]
        strings += [(file.name, n.value) for n in ast.walk(tree)
                    if isinstance(n, ast.Constant) and isinstance(n.value, str) and id(n) not in parts]
    return pages + strings


def test_what_users_are_told_to_type_can_be_typed():
    """Kind: commands on pages, in messages and in what commands print have flags that are shown by their `--help`."""
    known, typed, wrong = {command: {*flags(command), "--help"} for command in COMMANDS}, 0, []
    for where, text in texts():
        for command, rest in re.findall(r"\b(nnUNetv2_\w+)((?: [\w./*<>={}$-]+)+)", text):
            for flag in re.findall(r" (--?[a-z]\w*)(?= |$)", rest) if command in known else ():
                typed += 1
                wrong += [] if flag in known[command] else [f"{where}: {command} {flag}"]
    assert typed > 100 and wrong == []
