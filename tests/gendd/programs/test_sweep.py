"""The sweep program, with a train script that only records its arguments."""

import json

import pytest
from lines import refuses

from gendd.core.errors import PassingFault
from gendd.programs import plain_flags, sweep

SCRIPT = """
echo "$*" >>calls
[[ $* != *" 0.25 "* ]] || { echo "error: broken" >&2 && exit 2; }
[[ $* == *--dry-run* ]] && echo plan && exit
mkdir -p "runs/${*: -1}" && echo '{"head": {"feature_dim": 144}}' >"runs/${*: -1}/result.json"
echo "results in runs/pretrain/0"
echo "results in runs/${*: -1}"
"""


@pytest.fixture
def swept(tmp_path, monkeypatch):
    """Return a function (setting, flags) that runs the sweep; it returns the script's calls and the drawn runs."""
    (tmp_path / "pair.sh").write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)
    for name in ("VALUES", "SEEDS", "OUTPUT", "JOBS", "METHOD", "FAMILY"):
        monkeypatch.delenv(name, raising=False)
    drawn = []
    monkeypatch.setattr(sweep, "draw", lambda config: drawn.append((config.setting, config.runs, config.output)))

    def run(setting, *flags):
        sweep.main([setting, "pair.sh", *flags])
        return (tmp_path / "calls").read_text().splitlines(), drawn

    run.drawn = drawn
    return run


def test_sweep_trains_each_value_and_seed_and_draws_them(swept, monkeypatch):
    monkeypatch.setenv("VALUES", "0 0.5")
    monkeypatch.setenv("SEEDS", "0 1")
    calls, [(setting, runs, output)] = swept("contraction", "--lr", "1")
    assert calls == [
        f"--lr 1 --seed {seed} --contraction {value} --name gendd-contraction-{value}"
        for seed in (0, 1)
        for value in ("0", "0.5")
    ]
    assert setting == "contraction" and output == "runs/ablations/pair"
    assert runs == ("runs/gendd-contraction-0", "runs/gendd-contraction-0.5") * 2


def test_sweep_of_repeats_uses_each_draw_scheme(swept, monkeypatch):
    monkeypatch.setenv("VALUES", "4")
    calls, _ = swept("repeats")
    assert calls == [
        f"--seed 0 --repeats 4 --draw-scheme {scheme} --name gendd-repeats-4-{scheme}"
        for scheme in ("independent", "shared", "antithetic")
    ]


def test_sweep_of_token_dim_ends_at_the_feature_width(swept):
    calls, [(_, runs, _)] = swept("token-dim")
    assert [call.split()[-1].removeprefix("gendd-token-dim-") for call in calls] == ["8", "16", "144"]
    assert len(runs) == 3


@pytest.mark.parametrize(
    ("narrowest", "width", "wider"), [(8, 64, [16, 32, 64]), (8, 8, []), (8, 0, []), (8, 24, [24])]
)
def test_token_widths_double_and_divide_the_feature(narrowest, width, wider):
    assert sweep.wider_tokens(narrowest, width) == list(map(str, wider))


def test_sweep_names_failed_runs_and_draws_the_others(swept):
    with pytest.raises(
        PassingFault, match="1 of the runs failed, see runs/ablations/pair/gendd-contraction-0.25-0.log"
    ):
        swept("contraction")
    ((_, runs, _),) = swept.drawn
    assert len(runs) == 4


def test_sweep_dry_run_draws_nothing(swept):
    calls, drawn = swept("feature-mixup", "--dry-run")
    assert len(calls) == 2 and not drawn


def test_sweep_refuses_invalid_commands(swept):
    with refuses("SETTING lambda: no such name; .*contraction"):
        swept("lambda")
    with refuses("SCRIPT sh/none.sh: no such file, looked for /"):
        sweep.main(["feature-mixup", "sh/none.sh"])
    with refuses("SCRIPT is missing"):
        sweep.main(["contraction"])
    with refuses("pair.sh --lr 1: not used with flags after --; leave it out"):
        swept("contraction", "--lr", "1", "--", "--dataset", "digits")


def test_sweep_passes_empty_values_on(swept, monkeypatch):
    monkeypatch.setenv("VALUES", "0")
    assert swept("contraction", "--auto-augment", "", "--lr", "1")[0] == [
        "--auto-augment  --lr 1 --seed 0 --contraction 0 --name gendd-contraction-0"
    ]


def test_feature_width_is_read_from_a_runs_result(tmp_path):
    (tmp_path / "result.json").write_text(json.dumps({"head": {"feature_dim": 256}}))
    assert sweep.feature_width({None: str(tmp_path)}) == 256 and sweep.feature_width({None: ""}) == 0


def test_another_seed_draws_earlier_runs_too(swept, monkeypatch):
    swept("feature-mixup")
    monkeypatch.setenv("SEEDS", "1")
    _, [_, (_, runs, _)] = swept("feature-mixup", "--lr", "1")
    # The script uses the same folder for all seeds.
    assert runs == ("runs/gendd-feature-mixup-0", "runs/gendd-feature-mixup-1")
    monkeypatch.setenv("VALUES", "0.5")
    assert len(swept("feature-mixup")[1][-1][1]) == 3
    assert len(swept("contraction")[1][-1][1]) == 1


def test_sweep_with_plain_flags_needs_no_script(swept, tmp_path, monkeypatch):
    (tmp_path / "sh").mkdir()
    (tmp_path / "sh" / "launch.sh").write_text(SCRIPT)
    monkeypatch.setattr(plain_flags, "LAUNCHER", ("bash", "sh/launch.sh"))
    sweep.main(["feature-mixup", "--", "--dataset", "digits", "--lr", "1"])
    assert (tmp_path / "calls").read_text().splitlines() == [
        f"gendd_cifar train gendd --dataset digits --lr 1 --seed 0 --feature-mixup {value} "
        f"--name gendd-feature-mixup-{value}"
        for value in (0, 1)
    ]
    assert swept.drawn[0][2] == "runs/ablations/digits"
    monkeypatch.setenv("METHOD", "regression")
    sweep.main(["feature-mixup", "--", "--dataset", "digits"])
    *_, last = (tmp_path / "calls").read_text().splitlines()
    assert last.startswith("gendd_cifar train regression ") and last.endswith(" --name regression-feature-mixup-1")
    assert swept.drawn[1][1:] == (
        ("runs/regression-feature-mixup-0", "runs/regression-feature-mixup-1"),
        "runs/ablations/digits_regression",
    )
