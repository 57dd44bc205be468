"""The kind: a function that takes many things and does not say what they are."""

import ast
from pathlib import Path

import nnunetv2_stitch

HOUSE = Path(nnunetv2_stitch.__file__).parent
MANY = 5  # parameters

#: Still to be written; nothing is added here.
OPEN = {
    "demo/parents.py": {"train_parent"},
    "distillation/unlabelled.py": {"preprocess_unlabelled"},
    "parties/find.py": {"find_models", "select_model", "find_pair"},
    "pipeline/choosing.py": {"choose"},
    "pipeline/memory.py": {"training_need", "step_bytes"},
    "pipeline/stitched_card.py": {"stitched_card"},
    "selection/scored_cases.py": {"score_cases"},
    "stitching/plans.py": {"record_parent", "stitched_plans"},
    "training/adapt.py": {"adapt", "train_on"},
    "training/adapt_choice.py": {"score_fold"},
    "training/stock.py": {"fold_folder"},
}


def test_public_functions_with_many_parameters_say_what_they_take():
    asked, silent = 0, {}
    for path in sorted(HOUSE.rglob("*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                given = node.args
                if len([*given.posonlyargs, *given.args, *given.kwonlyargs]) >= MANY:
                    asked += 1
                    if "\nArgs:\n" not in (ast.get_docstring(node) or ""):
                        silent.setdefault(path.relative_to(HOUSE).as_posix(), set()).add(node.name)
    assert asked > 50
    assert not {f"{file}: {name}" for file, names in silent.items() for name in names - OPEN.get(file, set())}
