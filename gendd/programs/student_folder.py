"""A run's plain student, in a folder that timm loads: timm.create_model("local-dir:RUN/student", pretrained=True)."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# timm's own writer of such a folder's config.json, which it exports under no public name.
from timm.models._hub import save_config_for_hf

from gendd.checkpoint import save_tensors
from gendd.networks import timm_can_build
from gendd.programs.measurement import Measurement
from gendd.runs import RunFolder


@dataclass(frozen=True)
class StudentFolder:
    """What writes model.safetensors and config.json with each checkpoint.

    Args:
        measurement: of the training whose student it is.
        teacher: the run's record of its teacher; empty without one.
    """

    run: RunFolder
    measurement: Measurement
    teacher: Mapping[str, Any]

    def write(self, epoch: int) -> None:
        """Write the student with the reported weights, as it is after this epoch."""
        measurement, folder = self.measurement, self.run.student
        plain = measurement.plain(measurement.model(measurement.config.weights)).state_dict()
        config = self.config(epoch)
        folder.mkdir(exist_ok=True)
        # One key: safetensors writes several in an order that differs from call to call.
        save_tensors(
            folder / "model.safetensors",
            {name: value.contiguous() for name, value in plain.items()},
            {"config": json.dumps(config)},
        )
        self.run.write("student/config.json", config)
        link = self.run.student_file
        if not link.is_symlink():
            link.unlink(missing_ok=True)
            link.symlink_to(Path("student", "model.safetensors"))

    def config(self, epoch: int) -> dict[str, Any]:
        """How timm builds the network and prepares its images, and under "gendd" where the weights come from."""
        config, network, evaluation = self.measurement.config, self.measurement.network, self.measurement.evaluation
        run = {
            "network": config.student,
            "method": config.method.name,
            "dataset": config.dataset,
            "epoch": epoch,
            "epochs": config.epochs,
            "teacher": {"network": config.teacher, **self.teacher} if config.teacher else None,
        }
        side = evaluation.image_size
        normalization = {name: tuple(network.pretrained_cfg[name]) for name in ("mean", "std")}
        preprocessing = {"input_size": (3, side, side), **normalization, **evaluation.geometry}
        described = {"label_names": list(evaluation.class_names), "gendd": run}
        if timm_can_build(config.student, network):
            return _timm_config(network, preprocessing, described)
        return {**described, "pretrained_cfg": preprocessing}


def _timm_config(network: Any, preprocessing: dict[str, Any], described: dict[str, Any]) -> dict[str, Any]:
    with TemporaryDirectory() as place:
        file = Path(place, "config.json")
        save_config_for_hf(network, str(file), model_config=described, data_config=preprocessing)
        content = json.loads(file.read_text())
    # Our own mark for a network that states no normalization, which timm refuses.
    content["pretrained_cfg"].pop("normalization", None)
    return content
