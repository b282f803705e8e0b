"""The formats of what encdec writes, and the names under which a checkpoint holds what Lightning's does not."""

CHECKPOINT_FORMAT = 2
"""Of checkpoints and exports; raised when an older encdec would misread what this one writes."""
REPORT_FORMAT = 2
"""Of the JSON of an evaluation; a change that readers would notice raises it."""
REPORT_ENDING = ".evaluation.json"
"""last.ckpt is reported in last.evaluation.json, and in last.evaluation.csv."""
VALUES_ENDING = ".evaluation.npz"
"""Beside a report: values of images of which its metrics are means, so that runs are compared image by image."""
FEW_STEPS = 100
"""Steps of training below which a model is called hardly trained, and not judged."""
RENAMED_VALUES = {("mode", "colour"): "color"}
"""Settings and their values as encdec 0.1 called them, and what the values are called since."""

WRITTEN_BY_KEY = "encdec"
"""Where a checkpoint says who wrote it."""
CODE_KEY = "plugin_code"
"""Where a checkpoint holds SHA-256 of the syntax of each plugin's file that its model is of, by module."""
CURVE_KEY = "training_curve"
"""Where a checkpoint holds the sums of the training scalars since they were last logged."""
