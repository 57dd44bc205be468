from model_folders import edit, make_model, results  # noqa: F401
