"""Command lines that pages show: each is taken by the parser of its command, stock nnU-Net's included."""

import argparse
import ast
import contextlib
import importlib
import io
import re
import shlex
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from nnunetv2_stitch.folders import stock_id

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^ {4}\S.*\n(?: {4}.*\n)*", re.MULTILINE)
INLINE = re.compile(r"`(nnUNetv2_\w+ [^`]*)`")
ENDS = {"&&", "||", ";", "|", "&", ")", ">", "2>"}
TAKES_IDS = re.compile(r"nnUNetv2_(preprocess|extract_fingerprint|plan_\w+) -d $")
#: What stands for something else, where the parser looks at what it is given.
MEANT = {"$SLURM_ARRAY_TASK_ID": "0", "ID_A": "1", "ID_B": "2", "YOUR_ID": "2", "FOLD": "0", "POSITION": "7"}


def commands_in(line: str) -> list[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words = [MEANT.get(word, word) for word in lexer]
    starts = [i for i, word in enumerate(words) if re.fullmatch(r"nnUNetv2_\w+", word) and
              (i == 0 or words[i - 1] in ENDS | {"(", "--no-python"} or re.match(r"\w+=", words[i - 1]))]
    ends = [next((i for i in range(start, len(words)) if words[i] in ENDS), len(words)) for start in starts]
    return [words[start:end] for start, end in zip(starts, ends)]


def blocks(text: str) -> list[list[str]]:
    """The words of every nnU-Net command in a page's blocks of code."""
    fenced = [body for _, language, body in FENCE.findall(text) if language in ("bash", "")]
    joined = (re.sub(r"\\\n\s*", " ", block) for block in (*fenced, *INDENTED.findall(FENCE.sub("", text))))
    return [words for block in joined for line in block.splitlines() if "nnUNetv2_" in line
            for words in commands_in(line)]


def sentences(text: str) -> list[list[str]]:
    """The same of commands within a line of text, which may leave out what the text has said before."""
    return [words for line in INLINE.findall(FENCE.sub("", text)) if not re.search(r"\.\.\.|[\[|<]", line)
            for words in commands_in(line)]


COMMANDS = [(str(page.relative_to(ROOT)), words) for page in PAGES for words in blocks(page.read_text())]
MENTIONED = [(str(page.relative_to(ROOT)), words) for page in PAGES for words in sentences(page.read_text())]


class Parsed(Exception):
    pass


@cache
def scripts() -> dict[str, tuple[str, str]]:
    """Command -> module and function."""
    return {entry.name: tuple(entry.value.split(":")) for entry in entry_points(group="console_scripts")}


def is_ours(command: str) -> bool:
    return scripts()[command][0].startswith("nnunetv2_stitch")


def parse(words: list[str]) -> None:
    """By the command's own parser; nothing is run."""
    module = importlib.import_module(scripts()[words[0]][0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", words)
        if is_ours(words[0]):
            read = getattr(module, "parse_parties", argparse.ArgumentParser.parse_args)
            read(module.build_parser())
            return
        real = argparse.ArgumentParser.parse_known_args

        def parse_and_leave(parser, args=None, namespace=None):
            if rest := real(parser, args, namespace)[1]:
                parser.error(f"unrecognized arguments: {rest}")
            raise Parsed

        patch.setattr(argparse.ArgumentParser, "parse_known_args", parse_and_leave)
        with contextlib.suppress(Parsed):
            getattr(module, scripts()[words[0]][1])()


def refusal(words: list[str]) -> str:
    """What the parser says against these arguments; "" if nothing."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
        try:
            parse(words)
        except SystemExit as left:
            return said.getvalue().strip().splitlines()[-1] if left.code else ""
    return ""


def refused(ours: bool) -> dict[str, str]:
    mine = [(where, words) for where, words in COMMANDS if is_ours(words[0]) == ours]
    said = {f"{where}: {shlex.join(words)}": refusal(words) for where, words in mine}
    assert len(said) > 20
    named = {f"{where}: {shlex.join(words)}": refusal(words) for where, words in MENTIONED if is_ours(words[0]) == ours}
    said |= {line: reason for line, reason in named.items() if "arguments are required" not in reason}
    return {line: reason for line, reason in said.items() if reason}


def test_every_command_that_is_shown_exists():
    assert [(page, words[0]) for page, words in COMMANDS + MENTIONED if words[0] not in scripts()] == []


def test_what_is_shown_of_our_commands_parses():
    """Kind: a page that shows a command which its parser refuses: a flag or a choice that is not there, a value or an
    argument that is missing."""
    assert refused(ours=True) == {}


@pytest.mark.slow  # imports nnU-Net
def test_what_is_shown_of_stock_commands_parses():
    """Kind: the same of commands that are not ours. Those that plan and preprocess take ids of datasets, no names."""
    assert refused(ours=False) == {}


@pytest.mark.parametrize(("line", "words", "reason"), [
    ("pip install . && nnUNetv2_train_stitch A -fit nonsense  # why", ["A", "-fit", "nonsense"], "invalid choice"),
    ("X=1 nnUNetv2_predict_stitched \\\n  -i I", ["-i", "I"], "required"),
    ("nnUNetv2_train_stitch A B --nonsense | tee LOG", ["A", "B", "--nonsense"], "unrecognized"),
])
def test_a_wrong_line_is_seen(line, words, reason):
    found, = blocks(f"```bash\n{line}\n```\n")
    assert found[1:] == words and reason in refusal(found)


def test_messages_name_datasets_to_stock_commands_by_id():
    """Kind: a message that says what to type, and nnU-Net refuses it: nnUNetv2_preprocess -d takes ids and no names."""
    assert [stock_id(n) for n in ("Dataset801_Blobs", "Dataset007_X_1", "Odd")] == ["801", "7", "Odd"]
    asked = 0
    for file in (f for folder in ("nnunetv2_stitch", "trainers", "entrypoints") for f in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            parts = node.values if isinstance(node, ast.JoinedStr) else ()
            for before, value in zip(parts, parts[1:]):
                if isinstance(before, ast.Constant) and TAKES_IDS.search(before.value):
                    asked += 1
                    source = ast.unparse(value.value)
                    assert source.startswith("stock_id(") or source == "dataset", f"{file.name}: {source}"
    assert asked > 8
