"""The plain student of a run, in a folder for timm: timm.create_model("local-dir:RUN/student", pretrained=True)."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

# timm writes the config.json of such a folder with this private function.
from timm.models._hub import save_config_for_hf
from torch import nn

from gendd.config import Config
from gendd.core.files import save_tensors
from gendd.methods import Classification
from gendd.networks.create import timm_can_build
from gendd.networks.timm_names import PLAIN
from gendd.programs.measurement import Measurement
from gendd.runs.folder import RunFolder
from gendd.runs.preprocessing import Preprocessing
from gendd.runs.published import teacher_origins


@dataclass(frozen=True)
class StudentFolder:
    """Writer of model.safetensors and config.json with each checkpoint.

    Args:
        measurement: measurement of the training, with the student.
        surroundings: the run's environment.json, with the records of its teachers.
        record: family, configuration and class names, so that the file can be evaluated without its run.
    """

    run: RunFolder
    measurement: Measurement
    surroundings: Mapping[str, Any]
    record: Mapping[str, Any]

    def write(self, epoch: int) -> None:
        """Write the student with the reported weights after this epoch."""
        measurement, folder = self.measurement, self.run.student
        plain = measurement.plain(measurement.model(measurement.config.optimizer.eval_weights)).state_dict()
        config = self.config(epoch)
        folder.mkdir(exist_ok=True)
        # One key only: safetensors writes several keys in an order that differs from call to call.
        save_tensors(
            folder / PLAIN,
            {name: value.contiguous() for name, value in plain.items()},
            {"config": json.dumps(config)},
        )
        self.run.write("student/config.json", config)
        link = self.run.student_file
        if not link.is_symlink():
            link.unlink(missing_ok=True)
            link.symlink_to(Path("student", PLAIN))

    def _plain_record(self) -> dict[str, Any]:
        """Return the record without teacher and method: the plain network is evaluated without them."""
        record = dict(self.record)
        if record:
            record["method"] = {"name": Classification.name}
            record["networks"] = {**record["networks"], "teacher": None, "teacher_weights": None, "more_teachers": []}
        return record

    def config(self, epoch: int) -> dict[str, Any]:
        """Return the configuration for timm; its key "gendd" holds the origin of the weights."""
        config, network, evaluation = self.measurement.config, self.measurement.network, self.measurement.evaluation
        run = {
            "network": config.networks.student,
            "method": config.method.name,
            "dataset": config.data.dataset,
            "epoch": epoch,
            "epochs": config.optimizer.epochs,
            "run": self._plain_record(),
            **teacher_origins(config.networks.teacher_names, self.surroundings),
        }
        return described(config, network, evaluation.class_names, run)


def described(
    config: Config, network: nn.Module, class_names: Sequence[str | None], origin: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the content of config.json for a plain student.

    Args:
        origin: value of the key "gendd": where the weights come from.
    """
    preprocessing = Preprocessing.of(network, config.data).timm
    names = {} if None in class_names else {"label_names": list(class_names)}
    content = {**names, "gendd": origin}
    if timm_can_build(config.networks.student, network):
        return _timm_config(network, preprocessing, content)
    return {**content, "pretrained_cfg": preprocessing}


def _timm_config(network: Any, preprocessing: dict[str, Any], described: dict[str, Any]) -> dict[str, Any]:
    with TemporaryDirectory() as place:
        file = Path(place, "config.json")
        save_config_for_hf(network, str(file), model_config=described, data_config=preprocessing)
        content = json.loads(file.read_text())
    # The project marks networks without a stated normalization with this key, which timm does not accept.
    content["pretrained_cfg"].pop("normalization", None)
    return content
