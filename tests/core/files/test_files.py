"""Files that users name: only regular files are read, and links to output files are not followed."""

import os
import socket
import sys

import keras
import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import kerassplit as ks
from kerassplit.cli import main
from kerassplit.engines.inputs import load_input
from kerassplit.files.atomic_file import Folder, open_regular, refuse_same, write_whole

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links and pipes are those of POSIX")


@pytest.fixture(scope="module")
def split():
    keras.utils.set_random_seed(3)
    x = inputs = keras.Input((4,), name="x")
    for name in "abc":
        x = keras.layers.Dense(4, "tanh", name=name)(x)
    return ks.split(keras.Model(inputs, x, name="chain"), ["a"])


@pytest.fixture(scope="module")
def on_images():
    x = keras.Input((6, 6, 3), name="pixels")
    y = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return ks.split(keras.Model(x, keras.layers.Dense(2, name="score")(y), name="tiny"), "pool")


@pytest.fixture
def rows(tmp_path):
    np.save(tmp_path / "rows.npy", np.arange(40, dtype="float32").reshape(10, 4))
    return tmp_path / "rows.npy"


def command(*arguments):
    done = CliRunner().invoke(main, list(map(str, arguments)))
    return done.exit_code, " ".join(done.stderr.split())


class TestLinks:
    @pytest.fixture
    def victim(self, tmp_path):
        path = tmp_path / "victim"
        path.write_bytes(b"precious" * 100)
        yield path
        assert path.read_bytes() == b"precious" * 100

    @pytest.mark.parametrize("name", ["lock", "out.npy", "rows", "run.json"])
    @pytest.mark.parametrize("link", [os.symlink, os.link])
    @pytest.mark.parametrize("option", ["resume", "overwrite"])
    def test_in_an_unfinished_run_none_is_followed(self, split, rows, victim, tmp_path, name, link, option):
        folder = tmp_path / "out.npy.unfinished"
        folder.mkdir()
        link(victim, folder / name)
        try:
            split.predict(rows, output=tmp_path / "out.npy", **{option: True})
        except ks.SplitError as error:
            message = (
                "is a link, and links are not followed" if link is os.symlink else "the same file has another name"
            )
            assert message in str(error)
            assert not (tmp_path / "out.npy").exists()
        else:
            np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), split.predict(rows))
        assert victim.read_bytes() == b"precious" * 100

    def test_an_unfinished_folder_that_is_a_link_is_refused_with_a_way_out(self, split, rows, tmp_path):
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "elsewhere" / "out.npy").write_bytes(b"precious")
        link = tmp_path / "out.npy.unfinished"
        link.symlink_to(tmp_path / "elsewhere")
        for options in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(
                ks.SplitError, match="unfinished' is a link, and links are not followed .* Remove it, or"
            ):
                split.predict(rows, output=tmp_path / "out.npy", **options)
        assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["out.npy"]
        assert (tmp_path / "elsewhere" / "out.npy").read_bytes() == b"precious"
        link.unlink()
        assert split.predict(rows, output=tmp_path / "out.npy").shape == (10, 4)

    @pytest.mark.parametrize("name", ["out.npy", "out.npy.json"])
    def test_a_link_in_the_place_of_a_result_is_replaced_and_not_followed(self, split, rows, victim, tmp_path, name):
        (tmp_path / name).symlink_to(victim)
        split.predict(rows, output=tmp_path / "out.npy", overwrite=True)
        assert not (tmp_path / name).is_symlink()

    def test_a_folder_on_the_way_that_the_user_names_may_be_a_link(self, split, rows, tmp_path):
        (tmp_path / "real").mkdir()
        (tmp_path / "link").symlink_to(tmp_path / "real")
        split.predict(rows, output=tmp_path / "link" / "out.npy")
        assert sorted(path.name for path in (tmp_path / "real").iterdir()) == ["out.npy", "out.npy.json"]

    def test_a_file_written_whole_replaces_a_link(self, victim, tmp_path):
        (tmp_path / "plan.json").symlink_to(victim)
        write_whole(tmp_path / "plan.json", b"{}", flush=True)
        assert (tmp_path / "plan.json").read_bytes() == b"{}"
        assert not (tmp_path / "plan.json").is_symlink()
        assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.json", "victim"]

    def test_a_folder_stays_the_one_that_was_opened(self, victim, tmp_path):
        """Another process replaces it with a link while it is open."""
        (tmp_path / "other").mkdir()
        with Folder(tmp_path / "own", make=True) as folder:
            (tmp_path / "own").rename(tmp_path / "moved")
            (tmp_path / "own").symlink_to(tmp_path / "other")
            folder.write("file", b"content", flush=True)
            folder.remove("file")
            folder.write("file", b"content")
        assert (tmp_path / "moved" / "file").read_bytes() == b"content"
        assert not list((tmp_path / "other").iterdir())


@pytest.mark.skipif(not hasattr(os, "O_PATH"), reason="O_PATH is Linux's")
def test_a_folder_that_nobody_may_list_is_written_to(tmp_path, monkeypatch):
    opened = os.open

    def refused(path, flags, *args, **more):  # as the system does, but for root
        if flags & os.O_DIRECTORY and not flags & os.O_PATH:
            raise PermissionError(13, "Permission denied", path)
        return opened(path, flags, *args, **more)

    monkeypatch.setattr(os, "open", refused)
    write_whole(tmp_path / "file", b"content", flush=True)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"content")]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="names of open files are asked of Linux")
class TestPowerCuts:
    """A file is flushed to disk before it is moved into place, and the folder's list of files after."""

    @pytest.fixture
    def events(self, monkeypatch):
        done, fsync, replace = [], os.fsync, os.replace

        def synced(handle):
            done.append(("sync", os.path.basename(os.readlink(f"/proc/self/fd/{handle}"))))  # noqa: PTH115, PTH119
            fsync(handle)

        def moved(source, target, **folders):
            done.append(("move", str(source), str(target)))
            replace(source, target, **folders)

        monkeypatch.setattr(os, "fsync", synced)
        monkeypatch.setattr(os, "replace", moved)
        return done

    def test_plans_and_profiles(self, split, events, tmp_path):
        ks.plan(split.model, 2).save(tmp_path / "plan.json")
        ks.profile(split.model).save(tmp_path / "profile.json")
        for name in ("plan.json", "profile.json"):
            (sync, written), (move, source, target), (after, folder) = (events.pop(0) for _ in range(3))
            assert (sync, move, after) == ("sync", "move", "sync")
            assert (source, target, folder) == (written, name, tmp_path.name)
        assert not events

    def test_results_of_a_run(self, split, rows, events, tmp_path):
        split.predict(rows, 5, output=tmp_path / "out.npy")
        place = events.index(("move", "out.npy", "out.npy"))
        before, after = events[:place], events[place:]
        assert max(index for index, event in enumerate(before) if event == ("sync", "out.npy")) < max(
            index for index, event in enumerate(before) if event == ("sync", "rows")
        )
        states = [index for index, event in enumerate(before) if event[0] == "move" and event[2] == "run.json"]
        assert len(states) == 2
        assert before.index(("sync", "rows")) < states[1]
        assert after[1:] == [("sync", tmp_path.name), ("move", "run.json", "out.npy.json"), ("sync", tmp_path.name)]


class TestSameFile:
    def kinds(self, rows, tmp_path):
        os.link(rows, tmp_path / "hard.npy")
        (tmp_path / "soft.npy").symlink_to(rows)
        (tmp_path / "folder").mkdir()
        (tmp_path / "parent").symlink_to(tmp_path)
        names = ["hard.npy", "soft.npy", "folder/../rows.npy", "parent/rows.npy", "parent/hard.npy", "rows.npy"]
        return [tmp_path / name for name in names]

    def test_a_run_does_not_replace_its_own_input(self, split, rows, tmp_path):
        before = rows.read_bytes()
        for output in self.kinds(rows, tmp_path):
            for options in ({}, {"overwrite": True}, {"resume": True}):
                with pytest.raises(
                    ks.SplitError, match="is also an input here.*: writing it would destroy it. Name an"
                ):
                    split.predict(rows, output=output, **options)
        split.save(tmp_path / "stages")
        code, text = command("run", tmp_path / "stages", "--input", rows, "-o", tmp_path / "hard.npy", "--overwrite")
        assert (code, "destroy" in text) == (2, True)
        assert rows.read_bytes() == before
        assert not list(tmp_path.glob("*.unfinished"))

    def test_nor_an_array_that_is_mapped_from_a_file(self, split, rows):
        with pytest.raises(ks.SplitError, match="rows.npy' is also an input here: writing it would destroy it"):
            split.predict(np.load(rows, mmap_mode="r")[2:], output=rows, overwrite=True)

    def test_nor_a_npz_that_is_one_of_several_outputs(self, small, tmp_path):
        split = ks.split(small, ["block1_out", "pool"])
        np.savez(tmp_path / "in.npz", image=np.ones((2, 8, 8, 3), "float32"), extra=np.ones((2, 4), "float32"))
        os.link(tmp_path / "in.npz", tmp_path / "out.score.npy")
        with pytest.raises(ks.SplitError, match="out.score.npy' is also an input here, as '.*in.npz'"):
            split.predict(tmp_path / "in.npz", output=tmp_path / "out.npy", overwrite=True)

    def test_nor_an_image_and_an_output_beside_the_images_is_none(self, on_images, tmp_path):
        photos = tmp_path / "photos"
        photos.mkdir()
        Image.new("RGB", (8, 8)).save(photos / "a.png")
        os.link(photos / "a.png", tmp_path / "out.npy")
        with pytest.raises(ks.SplitError, match="out.npy' is also an input here, as '.*a.png'"):
            on_images.predict(photos, output=tmp_path / "out.npy", overwrite=True, preprocess="none")
        before = (photos / "a.png").read_bytes()
        result = on_images.predict(photos, output=photos / "out.npy", preprocess="none")
        assert result.shape == (1, 2)
        assert (photos / "a.png").read_bytes() == before

    def test_no_command_writes_over_a_file_that_it_reads(self, split, tmp_path):
        model, profile = tmp_path / "m.keras", tmp_path / "profile.json"
        split.model.save(model)
        code, _ = command("plan", model, "--devices", 2, "-o", tmp_path / "plan.json")
        assert code == 0
        ks.profile(split.model).save(profile)
        for name in ("m.svg", "m.txt"):
            os.link(model, tmp_path / name)
        out = tmp_path / "out"
        assert command("split", model, "--at", "a", "-o", out)[0] == 0
        before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
        last_stage = sorted(out.glob("*.keras"))[-1]
        device = f"x: {profile}"
        for arguments in (
            ["plan", model, "--devices", 2, "-o", model],
            ["plan", model, "--devices", 2, "--profile", profile, "-o", profile],
            ["plan", model, "--device", device, "--device", device, "-o", profile],
            ["plan", model, "--devices", 2, "--plot", tmp_path / "m.svg"],
            ["profile", model, "--plot", tmp_path / "m.svg"],
            ["plot", model, "-o", tmp_path / "m.txt"],
            ["split", last_stage, "--at", "b", "-o", out, "--overwrite"],
            ["split", model, "--plan", out / "kerassplit.json", "-o", out, "--overwrite"],
        ):
            code, text = command(*arguments)
            assert (code, "writing it would destroy it" in text) == (2, True), (arguments, text)
        assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before

    def test_what_is_written_beside_is_written(self, tmp_path):
        (tmp_path / "a").write_bytes(b"")
        refuse_same([tmp_path / "b", tmp_path / "missing" / "c"], [tmp_path / "a", None, tmp_path / "missing"])
        refuse_same([tmp_path / "a"], [])


def test_what_is_read_is_not_looked_at_where_nothing_would_be_overwritten(tmp_path):
    def never():
        raise AssertionError("a folder of a million photos on a slow disk")
        yield tmp_path

    refuse_same([tmp_path / "new"], never())


class TestNoRegularFile:
    @pytest.fixture
    def pipe(self, tmp_path):
        def made(name):
            os.mkfifo(tmp_path / name)
            return tmp_path / name

        return made

    def test_none_is_waited_for(self, split, on_images, pipe, tmp_path):
        for name in ("x.npy", "x.npz", "x.png"):
            path = pipe(name)
            for read in (
                lambda path=path: split.predict(path),
                lambda path=path: load_input(path, split.model),
                lambda path=path: load_input(path, on_images.model),
            ):
                with pytest.raises(ks.SplitError, match="is a pipe, socket or device: expected a regular file"):
                    read()
        with pytest.raises(ks.SplitError, match="plan.json' is a pipe"):
            ks.Plan.load(pipe("plan.json"))
        for arguments in (
            ["points", pipe("m.keras")],
            ["points", pipe("m.h5")],
            ["points", "MobileNetV2", "--import", pipe("code.py")],
            ["points", "MobileNetV2", "--weights", pipe("w.weights.h5")],
            ["plan", "MobileNetV2", "--devices", 2, "--profile", pipe("p.json")],
            ["plan", "MobileNetV2", "--device", f"a: {pipe('q.json')}", "--device", "b: 1 GFLOPS"],
        ):
            code, text = command(*arguments)
            assert (code, "is a pipe, socket or device" in text) == (2, True), text

    def test_in_a_folder_of_images_they_are_left_out(self, on_images, tmp_path):
        os.mkfifo(tmp_path / "b.png")
        Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
        assert on_images.predict(tmp_path, preprocess="none").shape == (1, 2)

    def test_devices_and_sockets(self, split, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)  # the name of a socket must be short
        with socket.socket(socket.AF_UNIX) as one:
            one.bind("s.npy")
            for path in ("s.npy", "/dev/zero"):
                with pytest.raises(ks.SplitError, match="is a pipe, socket or device"):
                    split.predict(path)
                with pytest.raises(ks.SplitError, match="is a pipe, socket or device"):
                    open_regular(path)

    @pytest.mark.parametrize("name", ["lock", "out.npy", "rows", "run.json"])
    def test_a_pipe_in_an_unfinished_run_is_not_waited_for(self, split, rows, pipe, tmp_path, name):
        (tmp_path / "out.npy.unfinished").mkdir()
        pipe(f"out.npy.unfinished/{name}")
        try:
            split.predict(rows, output=tmp_path / "out.npy", resume=True)
        except ks.SplitError as error:
            assert "is a pipe, socket or device" in str(error)
        else:
            np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), split.predict(rows))

    def test_a_record_that_is_a_pipe(self, split, rows, pipe, tmp_path):
        np.save(tmp_path / "out.npy", np.zeros(3))
        pipe("out.npy.json")
        with pytest.raises(ks.SplitError, match="is a pipe, socket or device"):
            split.predict(rows, output=tmp_path / "out.npy", resume=True)


ODD = {"too long": "n" * 300, "half a pair": "\ud800", "with a null": "a\0b", "250 bytes": "n" * 246}


class TestNames:
    @pytest.mark.parametrize("kind", ODD)
    def test_names_that_no_file_can_have_are_refused_and_nothing_is_left(self, split, rows, kind, tmp_path):
        output = tmp_path / "to" / f"{ODD[kind]}.npy"
        for options in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(ks.SplitError, match="There can be no file or folder|expected a name that ends in .npy"):
                split.predict(rows, output=output, **options)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["rows.npy"]

    @pytest.mark.parametrize("kind", list(ODD)[:3])
    def test_of_inputs_too(self, split, on_images, kind, tmp_path):
        for suffix in (".npy", ".npz", ".png", ""):
            path = tmp_path / f"{ODD[kind]}{suffix}"
            for read in (
                lambda path=path: split.predict(path),
                lambda path=path: load_input(path, split.model),
                lambda path=path: load_input(path, on_images.model),
                lambda path=path: ks.Plan.load(path),
                lambda path=path: write_whole(path, b""),
            ):
                with pytest.raises(
                    ks.SplitError, match="There can be no file or folder|cannot be (opened|written|read)"
                ):
                    read()
        if kind != "with a null":  # which no command line can hold
            for arguments in (["points", f"{ODD[kind]}.keras"], ["points", ODD[kind]]):
                code, text = command(*arguments)
                assert code == 2
                assert "There can be no file or folder" in text

    @pytest.mark.skipif(sys.platform == "darwin", reason="names are UTF-8 there")
    def test_names_that_are_no_utf8_are_read_and_written(self, split, on_images, rows, tmp_path):
        odd = os.fsdecode(b"\xff\xe9")
        source = tmp_path / f"{odd}.npy"
        rows.rename(source)
        output = tmp_path / f"out{odd}.npy"
        result = split.predict(source, output=output)
        np.testing.assert_array_equal(result, split.predict(source))
        np.testing.assert_array_equal(split.predict(source, output=output, resume=True), result)
        photos = tmp_path / f"photos{odd}"
        photos.mkdir()
        Image.new("RGB", (8, 8)).save(photos / f"{odd}.png", format="PNG")
        assert on_images.predict(photos, output=tmp_path / "images.npy", preprocess="none").shape == (1, 2)
        assert not list(tmp_path.glob("*.unfinished"))
        split.save(tmp_path / "stages")
        code, text = command("run", tmp_path / "stages", "--input", source, "-o", tmp_path / f"two{odd}.npy")
        assert (code, text) == (0, "")
