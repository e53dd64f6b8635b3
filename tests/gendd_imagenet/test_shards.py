"""Shards: writing, equal batches for any number of processes and workers, and errors."""

import bz2
import gzip
import io
import json
import lzma
import re
import shutil
import sys
import tarfile
from collections import Counter
from pathlib import Path

import pytest
import torch
from lines import refuses
from photos import assert_same, config, images_and_labels, open_photos, refusal
from PIL import Image
from programs import IMAGENET, imagenet_config, train_imagenet

from gendd.core import retry
from gendd.core.errors import PassingFault
from gendd.programs.configuration import configuration
from gendd.runs.folder import data_name
from gendd.runs.lock import sole_writer
from gendd_imagenet.check import check_data
from gendd_imagenet.make_shards import main as make_shards
from gendd_imagenet.shards import (
    UnreadableShard,
    checksum,
    expand,
    images_of,
    is_shards,
)
from gendd_imagenet.sources import list_training, summarize


@pytest.fixture(scope="module")
def folder(photos, tmp_path_factory) -> Path:
    """Write 90 images in 9 shards."""
    output = tmp_path_factory.mktemp("shards")
    make_shards([str(photos / "train"), str(output), "--images-per-shard", "10"])
    return output


@pytest.fixture
def pattern(folder) -> str:
    return f"{folder}/{{00000..00008}}.tar"


def unindexed(folder: Path, copied: Path) -> Path:
    """Copy shards without their index."""
    return Path(shutil.copytree(folder, copied, ignore=shutil.ignore_patterns("*.json")))


def streamed(pattern: str, photos: Path, **settings):
    flags = {"steps_per_epoch": 5, "unlabeled": True, "contraction": 0, "eval_dataset": photos}
    return config(pattern, **flags | settings)


def test_shards_contain_unchanged_files_with_captions(photos, folder, pattern):
    contents = {name: content for shard in expand(pattern) for name, content in images_of(shard)}
    originals = Counter(path.read_bytes() for path in (photos / "train").rglob("*.JPEG"))
    assert Counter(contents.values()) == originals
    with tarfile.open(folder / "00000.tar") as shard:
        names = shard.getnames()
        captions = {shard.extractfile(name).read().decode() for name in names if name.endswith(".txt")}
    assert captions == {"n01", "n02", "n03"}
    assert [Path(name).stem for name in names[::2]] == [Path(name).stem for name in names[1::2]]


def test_same_images_give_the_same_shards(photos, folder, tmp_path, capsys):
    make_shards([str(photos / "train"), str(tmp_path), "--images-per-shard", "10"])
    assert f'--dataset "{tmp_path}/{{00000..00008}}.tar"' in capsys.readouterr().out
    assert all((tmp_path / shard.name).read_bytes() == shard.read_bytes() for shard in folder.glob("*.tar"))
    assert "already holds shards" in refusal(make_shards, [str(photos / "train"), str(tmp_path)])


def test_batches_do_not_depend_on_workers_or_processes(photos, pattern):
    whole = images_and_labels(open_photos(streamed(pattern, photos)), range(5))
    assert_same(images_and_labels(open_photos(streamed(pattern, photos, workers=2)), range(5)), whole)
    halves = [
        images_and_labels(open_photos(streamed(pattern, photos), rank=rank, world=2), range(5)) for rank in (0, 1)
    ]
    joined = [tuple(map(torch.cat, zip(*parts, strict=True))) for parts in zip(*halves, strict=True)]
    assert_same(joined, whole)
    parts = images_and_labels(open_photos(streamed(pattern, photos), grad_accum_steps=2), range(5))
    joined = [tuple(map(torch.cat, zip(*pair, strict=True))) for pair in zip(parts[::2], parts[1::2], strict=True)]
    assert_same(joined, whole)


@pytest.mark.parametrize(("batch", "shards", "world"), [(24, 3, 24), (30, 9, 10), (12, 1, 4)])
def test_many_processes_read_few_shards_as_one_does(photos, tmp_path, folder, content, batch, shards, world):
    """One of the images is broken."""
    mixed = unindexed(folder, tmp_path / "mixed")
    write_shard(mixed / "00000.tar", {f"{i}.jpg": content[:100] if i == 3 else content for i in range(4)})
    settings = streamed(f"{mixed}/{{00000..0000{shards - 1}}}.tar", photos, steps_per_epoch=2)
    whole = images_and_labels(open_photos(settings, batch), range(2))
    parts = [images_and_labels(open_photos(settings, batch, rank, world), range(2)) for rank in range(world)]
    joined = [tuple(map(torch.cat, zip(*steps, strict=True))) for steps in zip(*parts, strict=True)]
    assert_same(joined, whole)


def test_later_epoch_does_not_depend_on_earlier_ones(photos, pattern):
    data = open_photos(streamed(pattern, photos))
    epochs = [images_and_labels(data, range(start, start + 5)) for start in (0, 5)]
    assert_same(images_and_labels(open_photos(streamed(pattern, photos)), range(5, 10)), epochs[1])
    assert not torch.equal(epochs[0][0][0], epochs[1][0][0])


def test_shards_get_classes_from_the_evaluation_set(photos, pattern):
    settings = streamed(pattern, photos)
    summary = summarize(settings)
    assert (summary.num_classes, summary.labeled, summary.missing) == (3, False, ())
    data = open_photos(settings)
    assert (data.steps_per_epoch, data.class_names, data.class_sizes) == (5, (), None)


def test_shards_through_a_pipe_give_the_same_batches(photos, folder, tmp_path):
    folder = unindexed(folder, tmp_path / "plain")
    piped = "pipe:cat " + f"{folder}/{{00000..00008}}.tar"
    whole = images_and_labels(open_photos(streamed(f"{folder}/{{00000..00008}}.tar", photos)), range(2))
    assert_same(images_and_labels(open_photos(streamed(piped, photos)), range(2)), whole)


def test_make_shards_refuses_a_folder_with_another_writer(photos, tmp_path):
    with sole_writer(tmp_path), refuses("is writing there; wait until it ends"):
        make_shards([str(photos / "train"), str(tmp_path)])
    assert not any(tmp_path.iterdir())


def test_make_shards_names_an_unreadable_image(tmp_path):
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.jpg").symlink_to("nowhere")
    with refuses("^FOLDER .*images: .*a.jpg: No such file or directory; replace it, or remove it$"):
        make_shards([str(tmp_path / "images"), str(tmp_path / "shards")])


def test_make_shards_counts_and_skips_hidden_files(photos, tmp_path, capsys):
    images = Path(shutil.copytree(photos / "train", tmp_path / "images"))
    for name in ("._n01_0.JPEG", ".ipynb_checkpoints/n01_0.JPEG", "notes.txt"):
        (images / "n01" / name).parent.mkdir(exist_ok=True)
        (images / "n01" / name).write_bytes(b"no image")
    make_shards([str(images), str(tmp_path / "shards")])
    assert "90 images in 1 shards (passed over: 2 hidden, 1 .txt)" in capsys.readouterr().out
    assert len(list(images_of(str(tmp_path / "shards" / "00000.tar")))) == 90


def test_make_shards_keeps_images_of_all_formats(tmp_path):
    for name in ("n01/x.gif", "n02/y.TIFF", "n02/z.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (40, 40)).save(tmp_path / "images" / name)
    (tmp_path / "images" / "n02" / "z.png").rename(tmp_path / "images" / "n02" / "z")
    make_shards([str(tmp_path / "images"), str(tmp_path / "shards")])
    contents = [content for _, content in images_of(str(tmp_path / "shards" / "00000.tar"))]
    assert Counter(contents) == Counter(path.read_bytes() for path in (tmp_path / "images").glob("*/*"))


# Refused data, and files that are skipped


def write_shard(path: Path, images: dict[str, bytes], mode: str = "w") -> str:
    with tarfile.open(path, mode) as shard:
        for name, content in images.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            shard.addfile(entry, io.BytesIO(content))
    return str(path)


@pytest.fixture
def content(photos) -> bytes:
    return next((photos / "train" / "n01").iterdir()).read_bytes()


def test_shards_may_contain_images_of_any_name(photos, tmp_path, content, capsys):
    images = ["a.v2.0001.jpg", "a.v2.0002.jpg", "./b.c/1.JPEG", "../b.c/2.png", "plain", "d.jpg", "d.seg.png"]
    others = ["._d.jpg", "./.hidden/e.jpg", "d.txt", "a.v2.0001.json", "LICENSE"]
    files = dict.fromkeys(images, content) | dict.fromkeys(others, b"no image")
    shard = write_shard(tmp_path / "names.tar", files)
    assert [name for name, _ in images_of(shard)] == [f"{shard}: {name}" for name in images]
    check_data(streamed(shard, photos))
    told = capsys.readouterr().out
    assert "1 shards with 7 images" in told
    assert "passed over: 2 hidden, 1 .txt, 1 .json, 1 without an ending" in told


@pytest.mark.parametrize("workers", [0, 1])
def test_shard_without_images_is_named(photos, tmp_path, workers):
    shard = write_shard(tmp_path / "empty.tar", {"a.txt": b"no image"})
    message = refusal(images_and_labels, open_photos(streamed(shard, photos, workers=workers)), range(1))
    assert message.startswith(f"--dataset {shard}: {shard} holds no image")


def test_truncated_shard_is_named(photos, tmp_path, content):
    shard = Path(write_shard(tmp_path / "short.tar", {f"{i}.jpg": content for i in range(20)}))
    shard.write_bytes(shard.read_bytes()[:-20000])
    message = refusal(images_and_labels, open_photos(streamed(str(shard), photos)), range(5))
    assert message.startswith(f"--dataset {shard}: {shard} cannot be read")


def header(shard: Path, number: int) -> int:
    with tarfile.open(shard) as archive:
        return archive.getmembers()[number].offset


def cut_at_a_header(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[: header(shard, 10)])


def damage_a_header(shard: Path) -> None:
    written = bytearray(shard.read_bytes())
    written[header(shard, 10)] ^= 255
    shard.write_bytes(written)


def join_with_itself(shard: Path) -> None:
    shard.write_bytes(2 * shard.read_bytes())


@pytest.mark.parametrize("mode", ["w", "w:gz"])
@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (cut_at_a_header, "cut short or damaged: empty header"),
        (damage_a_header, "cut short or damaged: bad checksum"),
        (join_with_itself, "continues after its end mark"),
    ],
)
def test_shard_without_an_end_or_with_two_ends_is_named(photos, tmp_path, content, damage, reason, mode, capsys):
    """tarfile reads such files up to the fault without an error."""
    shard = Path(write_shard(tmp_path / "faulty.tar", {f"{i}.jpg": content for i in range(20)}))
    damage(shard)
    if mode == "w:gz":
        shard = Path(shutil.move(shard, shard.with_suffix(".tgz")))
        shard.write_bytes(gzip.compress(shard.read_bytes()))
    settings = streamed(str(shard), photos)
    message = refusal(images_and_labels, open_photos(settings), range(5))
    assert message.startswith(f"--dataset {shard}: {shard} cannot be read")
    assert reason in message
    assert "1 missing or broken" in refusal(check_data, settings)
    assert f"{shard} cannot be read" in capsys.readouterr().out


def test_one_zero_block_ends_a_shard(tmp_path, content):
    """Some programs write one block of zeros instead of two, and do not fill the record."""
    shard = Path(write_shard(tmp_path / "bare.tar", {"0.jpg": content}))
    end = tarfile.BLOCKSIZE + -(-len(content) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    shard.write_bytes(shard.read_bytes()[: end + tarfile.BLOCKSIZE])
    assert len(list(images_of(str(shard)))) == 1


def test_unreachable_address_is_named(photos, monkeypatch):
    """The error is temporary, because the address may become reachable."""
    monkeypatch.setattr(retry, "PAUSES", (0,))
    address = "http://127.0.0.1:9/cc3m.tar"
    with pytest.raises(PassingFault, match="http://127.0.0.1:9/sizes.json cannot be read .Cannot connect to host"):
        open_photos(streamed(address, photos, workers=1))
    with pytest.raises(PassingFault, match=f"{address} cannot be read .Cannot connect to host"):
        list(images_of(address))


def test_broken_image_in_a_shard_is_skipped(photos, tmp_path, content, capsys):
    images = {f"{i}.jpg": content for i in range(20)} | {"20.jpg": content[:100]}
    data = open_photos(streamed(write_shard(tmp_path / "mixed.tar", images), photos))
    assert all(len(images) == 8 for images, _ in images_and_labels(data, range(5)))
    assert 1 <= data.broken_images <= 2
    assert "mixed.tar: 20" in capsys.readouterr().err


def test_shard_of_broken_images_ends_the_run(photos, tmp_path):
    shard = write_shard(tmp_path / "broken.tar", {f"{i}.jpg": b"no image" for i in range(20)})
    assert "are broken" in refusal(images_and_labels, open_photos(streamed(shard, photos)), range(1))


# Names of shards


@pytest.mark.parametrize(
    ("ending", "mode"),
    [("TAR", "w"), ("tar.gz", "w:gz"), ("tgz", "w:gz"), ("Tar.Bz2", "w:bz2"), ("tar.xz", "w:xz")],
)
def test_shards_may_be_compressed_and_in_upper_case(photos, tmp_path, content, ending, mode):
    names = [write_shard(tmp_path / f"{i}.{ending}", {f"{i}.jpg": content}, mode) for i in range(2)]
    settings = streamed(f"{tmp_path}/{{0..1}}.{ending}", photos)
    settings.check()
    assert data_name(settings.data.dataset) == tmp_path.name
    assert summarize(settings).missing == ()
    assert open_photos(settings).streamed.names == names
    check_data(settings)


@pytest.mark.parametrize(("ending", "compress"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_multipart_compressed_shards_are_read_and_checked(tmp_path, content, ending, compress):
    """Parallel compressors write several parts; tarfile's readers stop after the first one."""
    plain = write_shard(tmp_path / "plain.tar", {f"{i}.jpg": content for i in range(3)})
    written = Path(plain).read_bytes()
    shard = tmp_path / f"parts.tar.{ending}"
    middle = len(written) // 2
    shard.write_bytes(compress(written[:middle]) + compress(written[middle:]))
    assert [image for _, image in images_of(str(shard))] == 3 * [content]
    joined = compress(written)
    shard.write_bytes(joined + joined)
    with pytest.raises(UnreadableShard, match="continues after its end mark"):
        list(images_of(str(shard)))
    # Damage the checksum after the last byte of the images.
    place = len(joined) - {"gz": 6, "bz2": 2, "xz": 20}[ending]
    shard.write_bytes(joined[:place] + bytes([joined[place] ^ 255]) + joined[place + 1 :])
    with pytest.raises(UnreadableShard, match="cannot be read"):
        list(images_of(str(shard)))


def test_folder_of_shards_is_read_in_natural_order(photos, tmp_path, content):
    names = [write_shard(tmp_path / f"{i}.tar", {f"{i}.jpg": content}) for i in (1, 2, 10)]
    (tmp_path / "README.md").write_text("no shard")
    settings = streamed(tmp_path, photos)
    assert "`steps_per_epoch` is missing" in summarize(settings.changed(steps_per_epoch=0)).missing[0]
    assert expand(settings.data.dataset) == names
    assert (summarize(settings).missing, summarize(settings).labeled) == ((), False)
    assert open_photos(settings).streamed.names == names
    check_data(settings)


@pytest.mark.parametrize("beside", ["more/x.txt", "x.png"])
def test_folder_with_other_files_is_a_folder_of_images(tmp_path, content, beside):
    write_shard(tmp_path / "0.tar", {"0.jpg": content})
    (tmp_path / beside).parent.mkdir(exist_ok=True)
    (tmp_path / beside).touch()
    assert not is_shards(str(tmp_path))


def test_imagenets_archives_are_not_shards(tmp_path, monkeypatch, content):
    (tmp_path / "imagenet").mkdir()
    write_shard(tmp_path / "imagenet" / "ILSVRC2012_img_val.tar", {"0.jpg": content})
    monkeypatch.chdir(tmp_path)
    assert not is_shards("imagenet")
    assert is_shards("./imagenet")


def test_missing_data_error_lists_shard_extensions(photos, tmp_path):
    missing = summarize(streamed(tmp_path / "cc3m.zip", photos)).missing
    assert "or shards (.tar, .tar.gz, .tgz, .tar.bz2, .tar.xz)" in missing[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"holdout": 0.1}, "--holdout 0.1: shards cannot be split"),
        ({"eval_dataset": ""}, "--eval-dataset is missing"),
        ({"train_list": "a.txt"}, "--train-list a.txt: lists labeled files, which"),
    ],
)
def test_settings_that_shards_cannot_have_are_refused(photos, pattern, settings, message):
    flags = {"steps_per_epoch": 5, "unlabeled": True, "contraction": 0, "eval_dataset": photos, **settings}
    assert message in refusal(config(pattern, **flags).check)


def test_programs_that_list_training_images_refuse_shards(photos, pattern):
    assert "only training reads shards" in refusal(list_training, streamed(pattern, photos))


def test_missing_shards_are_refused(photos, folder):
    beyond = streamed(f"{folder}/{{00000..00010}}.tar", photos)
    assert "2 of its shards are missing" in summarize(beyond).missing[0]
    assert "2 of 11 shards are missing" in refusal(open_photos, beyond)


def test_checksum_follows_shards_and_not_their_folder(folder, tmp_path):
    copied = [shutil.copy(folder / name, tmp_path / name) for name in ("00000.tar", "00001.tar")]
    shards = [str(folder / path.name) for path in copied]
    assert checksum(shards) == checksum([str(path) for path in copied])
    copied[0].write_bytes(copied[1].read_bytes() + bytes(512))
    assert checksum(shards) != checksum([str(path) for path in copied])
    assert checksum(["https://example.org/00000.tar"]) is None


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("ftp://host/{0..9}.tar", "ftp://host/0.tar: URLs of ftp:// are not supported, but http, https, hf, s3"),
        ("file:///etc/0.tar", "file:///etc/0.tar: URLs of file:// are not supported"),
        ("0.tar::file:///etc/1.tar", "file:///etc/1.tar: URLs of file:// are not supported"),
        ("https://me:secret@host/{0..9}.tar?x=1", "https://host/0.tar: a user or password in a URL would be stored"),
        ("https://host/0.tar?sv=1&sig=secret", "https://host/0.tar: a signature or token in a URL would be stored"),
        ("https://host/0.tar?private_token=secret", "https://host/0.tar: a signature or token in a URL"),
        ("https://host/0.tar?a=1&apiKey=secret", "https://host/0.tar: a signature or token in a URL"),
        ("s3://bucket/0.tar?X-Amz-Signature=secret", "s3://bucket/0.tar: a signature or token in a URL"),
    ],
)
def test_unreadable_addresses_and_secrets_are_refused(address, message, photos):
    settings = streamed(address, photos)
    for work in (lambda settings: settings.check(), summarize, check_data):
        told = refusal(work, settings)
        assert "secret" not in told
        assert told.startswith(f"--dataset {message}")


def test_command_may_name_any_address():
    assert len(expand("pipe:aws s3 cp s3://me:secret@bucket/{000..009}.tar -")) == 10


@pytest.mark.parametrize(("scheme", "package", "extra"), [("gs", "gcsfs", "gcs"), ("az", "adlfs", "azure")])
def test_missing_package_of_a_cloud_is_named(scheme, package, extra, photos, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    told = refusal(open_photos, streamed(f"{scheme}://bucket/0.tar", photos))
    assert f"needs the package {package}" in told and f'pip install "gendd[{extra}]"' in told


def test_check_data_reads_all_shards(photos, pattern, tmp_path, content, capsys):
    check_data(streamed(pattern, photos))
    assert "9 shards with 90 images" in capsys.readouterr().out
    bad = write_shard(tmp_path / "bad.tar", {"a.jpg": content[:100]})
    assert "1 missing or broken" in refusal(check_data, streamed(bad, photos))
    assert f"{bad}: a.jpg: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "size", "reason"),
    [
        (tarfile.REGTYPE, 1 << 40, "bomb.jpg has 1099511627776 bytes, more than"),
        (tarfile.XHDTYPE, 1 << 40, "a header states 1099511627776 bytes, more than"),
        (tarfile.GNUTYPE_LONGNAME, 1 << 40, "a header states 1099511627776 bytes, more than"),
    ],
)
def test_shard_that_states_a_huge_member_is_refused(kind, size, reason, tmp_path):
    member = tarfile.TarInfo("bomb.jpg")
    member.type, member.size = kind, size
    with tarfile.open(tmp_path / "00.tar.gz", "w:gz", format=tarfile.GNU_FORMAT) as shard:
        shard.addfile(member)
    with pytest.raises(UnreadableShard, match=reason):
        list(images_of(str(tmp_path / "00.tar.gz")))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_of_a_shard_are_not_read(kind, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    member = tarfile.TarInfo("a.png")
    member.type, member.linkname = kind, str(tmp_path / "secret.png")
    with tarfile.open(tmp_path / "00.tar", "w") as shard:
        shard.addfile(member)
    with pytest.raises(UnreadableShard, match=r"holds no image \(passed over: 1 links\)"):
        list(images_of(str(tmp_path / "00.tar")))


@pytest.mark.parametrize(
    "pattern", ["pipe:touch {}", "a.tar::pipe:touch {}", "{{pipe,file}}:touch {}.tar", "pip{{e,x}}:touch {} #.tar"]
)
@pytest.mark.parametrize("name", ["dataset", "images"])
@pytest.mark.parametrize("source", ["config", "resume"])
def test_command_in_a_file_is_never_run(pattern, name, source, tmp_path):
    """A configuration or a run folder of a stranger may name a command as its shards."""
    attack = pattern.format(tmp_path / "attacked")
    flags = (
        "--student",
        "resnet18",
        "--teacher",
        "resnet34",
        "--steps-per-epoch",
        "1",
        "--eval-dataset",
        str(tmp_path),
    )
    content = imagenet_config(*flags, f"--{name}", attack).content()
    (tmp_path / "config.json").write_text(json.dumps({"family": "gendd_imagenet", **content}))
    given = [f"--{source}", str(tmp_path / "config.json" if source == "config" else tmp_path)]
    with refuses(f"^--{name} {re.escape(attack)}: --{source} .* names this command; read it, then give it as a flag"):
        train_imagenet([*given, "--check-data"])
    assert not (tmp_path / "attacked").exists()
    config = configuration(IMAGENET, [*given, f"--{name}", attack])
    assert getattr(config.data, name) == attack
