"""One run of the train program: build the networks, print the plan, train, evaluate, write the result."""

import contextlib
import time
from pathlib import Path

import torch

from gendd.config import Config
from gendd.core.distributed import (
    World,
    autocast,
    check_batch,
    hardware,
    missing_for_compile,
    resolve_precision,
)
from gendd.core.errors import InvalidSetting, UserError, naming
from gendd.core.files import save_tensors
from gendd.core.seeding import BatchPlan
from gendd.core.stopping import Stopping
from gendd.data.batch import HELD_OUT, refuse_other_classes
from gendd.data.image_files import describe
from gendd.distillation.stored_teacher import StoredTeacher
from gendd.evaluation.accuracy import class_groups, evaluate
from gendd.evaluation.scores import PERCENT
from gendd.family import Family
from gendd.methods import METHODS
from gendd.methods.base import FEATURES_ALONE
from gendd.methods.dense import DenseOptions
from gendd.methods.pretrain import SET_BY
from gendd.networks.checkpoint import read_weights, weights_file
from gendd.networks.cost import parameter_count
from gendd.networks.create import check_trains
from gendd.programs.dry_run import errors_of, list_missing, note_absent, without_absent
from gendd.programs.measurement import Measurement
from gendd.programs.plan import plan_of, steps_line
from gendd.programs.run_teachers import (
    describe_caches,
    measure_features,
    open_caches,
    teacher_record,
    teachers_of,
    weights_record,
)
from gendd.programs.student_folder import StudentFolder
from gendd.runs.environment import environment, environment_change
from gendd.runs.experiment import build, teacher_output
from gendd.runs.folder import (
    RunFolder,
    check_classes,
    earlier_epochs,
    embedded_record,
    run_path,
    stage1_run,
)
from gendd.runs.lock import Busy, sole_writer
from gendd.runs.loggers import check_loggers
from gendd.runs.networks import check_names_weights
from gendd.training.compiled import compile_options, compiling, eager
from gendd.training.loop import Training
from gendd.training.muon import Muon
from gendd.training.optim import create_optimizer

# Seconds between two checks whether another run has finished a shared stage 1.
WAIT = 10
PICTURED_FEATURES = 1000
PICTURED_MAPS = 6


class TrainRun:
    """A run of a train program, built from its configuration.

    Args:
        shared: the run is stage 1, which several runs may share.

    Attributes:
        missing: one message for each absent input that a dry run found.
    """

    def __init__(self, family: Family, config: Config, world: World, shared: bool = False):
        self.family, self.world, self.shared = family, world, shared
        self.run = RunFolder(Path(config.run.resume or run_path(config)))
        self.method, self.stage1 = config.method, stage1_run(config)
        self.config = self._without_idle_cache(config)
        self.precision = resolve_precision(config.run.precision, world.device)
        self.plan = BatchPlan(
            config.run.seed, config.optimizer.batch_size, world.rank, world.size, config.optimizer.grad_accum_steps
        )
        self.missing: list[str] = []
        self._check()

    def _without_idle_cache(self, config: Config) -> Config:
        """Return the configuration without a cache that its method does not read.

        Both stages of a recipe get the same flags, and a method may need the cache only without labels.
        """
        if not config.data.teacher_cache or self.method.reads_feature(config.data.lacks_labels):
            return config
        flag, name = f"--teacher-cache {config.data.teacher_cache}", self.method.name
        if self.method.feature == "never":
            able = ", ".join(name for name, known in METHODS.items() if known.feature != "never")
            raise UserError(
                f"{flag}: {name} does not learn from cached features; leave it out (these methods do: {able})"
            )
        self._say(f"{flag}: not used, {name} with labels reads no feature of the teacher")
        return config.changed(teacher_cache=None, cached_views=None, cached_maps="fp16")

    def _check(self) -> None:
        config, method, name = self.config, self.method, self.method.name
        if method.needs_teacher and not config.networks.teacher:
            raise UserError(f"--teacher is missing: {name} learns from a teacher; name its network")
        if config.networks.teacher and not method.needs_teacher:
            raise UserError(f"--teacher {config.networks.teacher}: {name} does not use a teacher; leave it out")
        if config.data.unlabeled and not method.unlabeled:
            able = ", ".join(name for name, known in METHODS.items() if known.unlabeled)
            field, value = config.data.unlabeled_by
            advice = f"choose a method that learns without: {able}" if field == "unlabeled" else FEATURES_ALONE
            raise InvalidSetting(field, value, f"{name} needs labels; {advice}")
        if not config.data.unlabeled and not method.labeled:
            raise UserError(f"METHOD {name}: it reads no labels; add --unlabeled")
        if config.networks.more_teachers and not method.several_teachers:
            able = ", ".join(name for name, known in METHODS.items() if known.several_teachers)
            names = " ".join(config.networks.teacher_names)
            raise InvalidSetting("teacher", names, f"{name} learns from one teacher; name one, or choose {able}")
        for refusal in errors_of(lambda: check_names_weights(config.networks)):
            self._refuse(refusal)
        for refusal in errors_of(lambda: check_loggers(config.run.log)):
            self._refuse(refusal)
        optimizer, pairs = config.optimizer, method.needs_pairs
        check_batch(optimizer.batch_size, self.world.size, optimizer.grad_accum_steps, pairs, method.fewest_images)
        self.run.check(config, self.family, SET_BY if self.shared else None)

    def _refuse(self, message: str) -> None:
        """Raise UserError; in a dry run, add the message to `missing` instead."""
        if not self.config.run.dry_run:
            raise UserError(message)
        self.missing.append(message)

    def execute(self) -> list[str]:
        """Train, or print the plan in a dry run. Return `missing`."""
        config = self.config
        with contextlib.ExitStack() as held:
            if not (config.run.dry_run or self._is_complete()):
                self._hold_folder(held)
            if not config.run.dry_run and self._is_complete():
                self._say_result()
            else:
                self._run()
        return self.missing

    def _is_complete(self) -> bool:
        """Return whether the first process sees the result. Another machine may see a new file of a network later."""
        return not self._all(not (self.world.is_first and self.run.result.exists()))

    def _hold_folder(self, held: contextlib.ExitStack) -> None:
        """Lock the run folder until `held` closes; if another run trains a shared stage, wait for it."""
        said = ""
        while refusal := self._try_to_hold(held):
            if not self._all(self.shared and isinstance(refusal, Busy)):
                raise refusal
            if str(refusal) != said:
                said = str(refusal)
                self._say(f"waiting for stage 1: {said}")
            time.sleep(WAIT)

    def _try_to_hold(self, held: contextlib.ExitStack) -> UserError | None:
        """Lock the run folder in the first process; return in all processes why it failed, or None."""
        refusal = None
        if self.world.is_first:
            try:
                held.enter_context(sole_writer(self.run.path))
            except UserError as error:
                refusal = error
        if self._all(refusal is None):
            return None
        return refusal or Busy(f"{self.run.path}: the first process cannot write there; see its message")

    def _all(self, value: bool) -> bool:
        """Return True if a value is true in all processes."""
        return self.world.all_true(torch.tensor(value, device=self.world.device))

    def _run(self) -> None:
        config, world = self.config, self.world
        self._build()
        self._say(
            plan_of(self.family, config, self.summary, self.built, self.plan, self.world, self.precision, self.run.path)
        )
        if config.run.dry_run:
            if not self.summary.missing:
                self.missing += errors_of(self._open_data)
            for line in describe_caches(self.built, config, self.data) if not self.missing else []:
                self._say(line)
            self._say(list_missing(self.missing))
            return
        self._open_data()
        self.measurement = Measurement(
            config, self.task, self.student.network, self.evaluation, self.groups, world, self.precision
        )
        surroundings = {**environment(world), "precision": self.precision, **self._teacher_record()}
        open_caches(self.built, config, self.data, world)
        if world.is_first:
            begun = (self.run.path / "environment.json").exists()
            if begun and (changed := environment_change(self.run.read("environment.json"), surroundings)):
                self._say(f"  changed since the last start: {changed}")
            self.run.claim(config, self.family, self.data, self.evaluation)
            self.run.write("environment.json", surroundings)
        world.barrier()
        if not self.run.last.exists():
            measure_features(self.built, config, self.data, world, self.precision)
        record = {"family": self.family.name, **config.content(), "classes": list(self.evaluation.class_names)}
        student = StudentFolder(self.run, self.measurement, surroundings, record)
        stopping = Stopping()
        training = self._training(student, stopping)
        with stopping.handling(training.where_stopped), compiling(stopping):
            training.fit()
            self._finish(training)

    def _open_data(self) -> None:
        config, network = self.config, self.student.network
        labeled_only = not self.method.unlabeled
        self.data = self.family.access.open_training(
            config, self.num_classes, self.plan, self.world, network, labeled_only
        )
        self.evaluation = self.family.access.open_evaluation(config, self.plan, self.world, network)
        if not config.data.unlabeled:
            refuse_other_classes(config.data.dataset, self.data.class_names, self.evaluation.class_names)
        sizes = self.data.class_sizes
        self.groups = {} if sizes is None else class_groups(sizes)
        split = "training images held out" if self.evaluation.split == HELD_OUT else f"of {self.evaluation.split}"
        held = f"{self.evaluation.size} {split} to evaluate on"
        self._say(f"  images     {self.data.size} to train on, {held}")
        self._say(steps_line(self.data.steps_per_epoch, self.config.optimizer.epochs))
        if passed_over := self.data.passed_over + self.evaluation.passed_over:
            self._say(f"  ignored    {describe(passed_over)}")
        self._check_teacher()
        # A network's file system would have to answer every process.
        if self.world.is_first and (changed := self.run.check_data(self.data, self.evaluation)):
            self._say(f"  evaluation images changed since the last start: {changed}")

    def _build(self) -> None:
        config = self.config
        summary = self.family.access.summarize(config)
        self.missing.extend(summary.missing)
        if summary.num_classes is None or (summary.missing and not summary.fetched and not config.run.dry_run):
            raise UserError("; ".join(summary.missing))
        if not summary.labeled and not config.data.unlabeled:
            raise UserError(
                f"--dataset {config.data.dataset}: it does not have labels; train without them: --unlabeled"
            )
        self.summary, self.num_classes = summary, summary.num_classes
        trained = None
        if self.run.last.exists():
            # Resuming needs only the run folder, not the initial weights.
            config = config.changed(student_weights=None)
            with naming("resume"):
                trained = read_weights(self.run.path)
        elif self.stage1 and self.stage1.result.exists():
            start = self.stage1.best if getattr(self.method, "pretrain_best", False) else self.stage1.last
            config = config.changed(student_weights=str(start))
        self._check_start(config)
        config, absent = without_absent(config, self.family.zoo) if config.run.dry_run else (config, {})
        self.missing += absent.values()
        built = build(
            self.family, config, self.num_classes, self.world.device, trained, self.precision, self.world.size
        )
        note_absent(built, absent)
        network = built.student.network
        if self.stage1 and not (trained or self.stage1.result.exists()):
            built.student.loaded = f"initial weights from stage 1, {self.stage1.path}"
        with naming("student"):
            check_trains(config.networks.student, network, config.data.image_size, self.plan.micro_batch_size)
        if isinstance(self.method, DenseOptions) and built.teacher and built.task.dense is not None:
            own = self.method.student_map(config.networks.student, network, config.data.image_size)
            for teacher in (built.teacher, *built.more_teachers):
                self.method.check_grid(tuple(own.shape[2:]), teacher.map_side)
        self.built, self.student, self.teacher, self.task = built, built.student, built.teacher, built.task
        self.teachers = teachers_of(built, config)
        if config.optimizer.ema_decay:
            self.task.start_average(config.optimizer.ema_decay)

    def _check_start(self, config: Config) -> None:
        """Refuse initial weights from a run that trained on images held out here."""
        start, data = config.networks.student_weights, config.data
        start_data = embedded_record(weights_file(start)).get("data", {}) if start and data.holdout else {}
        if start_data.get("dataset") == data.dataset and start_data["holdout"] != data.holdout:
            self._refuse(
                f"--student-weights {start}: its run has --holdout {start_data['holdout']}, so it trained on images "
                f"that --holdout {data.holdout} holds out here; train both with the same value"
            )

    def _check_teacher(self) -> None:
        """Refuse a teacher with other classes than the data, or another teacher than at the start of the run."""
        if not self.teacher:
            return
        if self.teacher.classifier and self.teacher.loaded.file:
            check_classes(self.teacher.loaded.file, self.evaluation.class_names, self.config.networks.teacher_by)
        # Stage 1 is read only before the run's own first checkpoint.
        for run in (self.run, self.stage1 if not self.run.last.exists() else None):
            if run:
                run.check_teachers([weights_record(teacher.loaded) for _, teacher in self.teachers])

    def _teacher_record(self) -> dict:
        """Return the records of the teachers' weights, with the first one's measured accuracy if it classifies."""
        teacher = self.teacher
        if not teacher:
            return {}
        record, *further = [teacher_record(one) for _, one in self.teachers]
        more = {"more_teachers": further} if further else {}
        if not teacher.classifier:
            return {"teacher": record, **more}
        with autocast(self.precision, self.world.device):
            batches = self.evaluation.batches()
            accuracy = evaluate(teacher_output(teacher), batches, self.world, groups=self.groups)["teacher"]
        shown = (f"{PERCENT[name]} {accuracy[name]:.2f} %" for name in ("top1", "top5") if name in accuracy)
        self._say(f"  teacher    measured: {', '.join(shown)}")
        return {"teacher": {**record, **accuracy}, **more}

    def _training(self, student: StudentFolder, stopping: Stopping) -> Training:
        config, world = self.config, self.world
        missing = missing_for_compile(world.device) if config.run.compile else None
        if missing:
            self._say(f"--compile: {missing} is missing; continuing without compilation, slower, with the same result")
        compiles = config.run.compile and not missing
        if compiles:
            self.task.compile(**compile_options(config, world))
        if world.size > 1:
            self.task.prepare_distributed(device_ids=[world.device.index] if world.device.type == "cuda" else None)
        heads = self.task.head, self.task.dense, self.task.branches
        optimizer = create_optimizer(self.task.trainable_module, config.optimizer, *heads)
        # On a CPU the matrix products take the time, and they stay as they are.
        if compiles and isinstance(optimizer, Muon) and world.device.type == "cuda":
            optimizer.compile(**compile_options(config, world))
        return Training(
            config,
            self.task,
            self.data,
            optimizer,
            self.run,
            world,
            self.precision,
            self.measurement,
            student.record,
            student.write,
            stopping,
        )

    def _finish(self, training: Training) -> None:
        """Evaluate the last epoch on all images; write the result and some features."""
        with eager(self.config):
            self._measure(training)

    def _measure(self, training: Training) -> None:
        measurement = self.measurement
        measured, costs = measurement(0), measurement.costs()
        if not self.world.is_first:
            return
        reported = measurement.model(self.config.optimizer.eval_weights)
        training.report("final", measured.record())
        if self.task.head is not None:
            with autocast(self.precision, self.world.device):
                save_tensors(self.run.features, measurement.features(reported, PICTURED_FEATURES))
        if self.task.dense is not None and not isinstance(self.teacher, StoredTeacher):
            with autocast(self.precision, self.world.device):
                save_tensors(self.run.maps, measurement.maps(reported, PICTURED_MAPS))
        images = self.config.optimizer.epochs * self.data.steps_per_epoch * self.config.optimizer.batch_size
        self.run.write(
            "result.json",
            {
                "epochs": self.config.optimizer.epochs,
                "earlier_epochs": earlier_epochs(self.config),
                **measured.images,
                **measurement.head_cost(reported),
                "last": measured.accuracies,
                "best": training.best,
                **measured.others,
                "student": {"parameters": parameter_count(self.student.network), "flops": self.student.flops},
                "outputs": costs,
                "seconds": round(training.seconds, 1),
                "train_images_per_second": round(images / training.seconds, 1),
                "processes": self.world.size,
                "hardware": hardware(self.world.device),
                "precision": self.precision,
            },
        )
        training.metrics.loggers.close()
        self._say_result()

    def _say_result(self) -> None:
        if self.world.is_first:
            path = self.run.path
            print(f"{path} is complete: {self.run.headline()}\nresults in {path.absolute()}", flush=True)

    def _say(self, text: str) -> None:
        if self.world.is_first:
            print(text, flush=True)
