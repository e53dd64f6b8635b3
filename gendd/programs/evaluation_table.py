"""The table that evaluate prints."""

from gendd.config import Config
from gendd.core.distributed import World, resolve_precision
from gendd.evaluation.scores import PERCENT, score_title
from gendd.runs.folder import SCORES

RATES = ("median", "min", "max")


def print_table(rows: list[dict], groups: list[str], images: int, settings: Config, world: World) -> None:
    """Print the figures of each output: accuracies in percent, parameters, MFLOPs and images/s.

    Args:
        groups: names of the groups of classes, in order.
        images: number of evaluated images.
    """
    if sampling := settings.method.sampling():
        unused = ("start",) if sampling.get("sampler") == "ancestral" else ()
        values = ", ".join(f"{name} {value}" for name, value in sampling.items() if name not in unused)
        print(f"sampling    {values}, seed {settings.run.seed}")
    print(f"hardware    {world.describe()}, {resolve_precision(settings.run.precision, world.device)}")
    ordered = (*SCORES, *groups, *PERCENT)
    names = [name for name in dict.fromkeys(ordered) if any(name in row for row in rows)]
    columns = ["output", *(f"{score_title(name, images)} %" for name in names), "parameters", "MFLOPs per image"]
    columns.append("images/s per process: median (min-max)")
    print(f"\n| {' | '.join(columns)} |\n{'|---' * len(columns)}|")
    for row in rows:
        rate = row["images_per_second"]
        median, least, most = (f"{rate[name]:.3g}" if rate[name] < 100 else f"{rate[name]:.0f}" for name in RATES)
        speed = f"{median} ({least}-{most}, {rate['batches']} {'batch' if rate['batches'] == 1 else 'batches'})"
        accuracies = [f"{row[name]:.2f}" if name in row else "not measured" for name in names]
        size = [f"{row['parameters'] / 1e6:.2f} M", f"{row['flops'] / 1e6:.1f}"]
        print(f"| {' | '.join([row['output'], *accuracies, *size, speed])} |", flush=True)
