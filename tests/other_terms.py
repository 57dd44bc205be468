"""Changes of a trained model's files, after which it is the same model under other terms."""


def in_2d(**changes):
    return lambda plans: plans["configurations"]["2d"].update(changes)


def grid(spacing, patch):
    return in_2d(spacing=[spacing, spacing], patch_size=[patch, patch])


def ct(mean, std, lower, upper):
    def change(plans):
        plans["configurations"]["2d"]["normalization_schemes"] = ["CTNormalization"]
        plans["foreground_intensity_properties_per_channel"]["0"].update(
            mean=mean, std=std, percentile_00_5=lower, percentile_99_5=upper)
    return change


def scheme(name):
    return in_2d(normalization_schemes=[name])


def transposed(plans):
    plans.update(transpose_forward=[0, 2, 1], transpose_backward=[0, 2, 1])


def turned(weights):
    for name, value in weights.items():
        if value.ndim == 4:
            weights[name] = value.transpose(2, 3).contiguous()


def relabelled(dataset):
    dataset["labels"] = {"background": 0, "second": 1, "first": 2}


def heads_swapped(weights):
    for name, value in weights.items():
        if ".seg_layers." in name:
            weights[name] = value[[0, 2, 1]]


def called(first, second):
    """Names of the labels 1 and 2."""
    return lambda dataset: dataset.update(labels={"background": 0, first: 1, second: 2})
