"""Finding, compiling and refusing the native kernels: real compilers, real processes."""

import os
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tokenmix import kernels
from tokenmix.kernels import build

needs_compiler = pytest.mark.skipif(not build.find_compilers(), reason="no C compiler on the PATH")
QUICK = tuple("-O0" if flag == "-O3" else flag for flag in build.FLAGS)  # the compiler need not try hard
SHOW = "from tokenmix import kernels; print(kernels.status())"
HIDE = (
    "from tokenmix.kernels import build; from pathlib import Path; build.PREBUILT = Path('missing')\n"
    f"build.FLAGS = {QUICK}\n"
)


@pytest.fixture
def python(processes, tmp_path):
    """Runs code in a process with a cache folder of its own, that does not see what was compiled at install."""

    def run(code, folder=tmp_path, **environment):
        done = processes.run(["-c", HIDE + code], env=surroundings(folder) | environment)
        return done.returncode, done.stdout, done.stderr

    return run


def surroundings(folder):
    """Environment variables that keep a process to a folder."""
    names = {"TOKENMIX_CACHE": str(folder / "cache"), "HOME": str(folder), "TMPDIR": str(folder / "tmp")}
    (folder / "tmp").mkdir(exist_ok=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TOKENMIX_", "XDG_"))}
    return kept | names


def libraries(folder):
    return sorted(path.name for path in folder.glob("*"))


@needs_compiler
def test_compiled_once_then_found(python, tmp_path):
    code, out, err = python(SHOW)
    assert code == 0, err
    assert "compiled on this machine" in out
    first = libraries(tmp_path / "cache")
    assert len(first) == 1, first
    code, out, err = python(SHOW, PATH="/nowhere", CC="")  # found again without a compiler
    assert code == 0, err
    assert out.startswith("native kernels")


@needs_compiler
def test_several_processes_at_once(processes, tmp_path):
    """All start with an empty cache; each ends with a working library, and no half-written one is left."""
    started = []
    for number in range(3):
        with (tmp_path / f"printed{number}").open("w") as file:
            started.append(processes.start(["-c", HIDE + SHOW], env=surroundings(tmp_path), stdout=file, stderr=file))
    for number, process in enumerate(started):
        code, printed = process.wait(200), (tmp_path / f"printed{number}").read_text()
        assert code == 0, printed
        assert printed.startswith("native kernels")
    assert len(libraries(tmp_path / "cache")) == 1


def test_no_compiler(python):
    code, out, err = python(SHOW, PATH="/nowhere", CC="")
    assert code == 0, err
    assert out.startswith("plain torch: ")
    assert "no C compiler: none of CC, cc, gcc and clang is on the PATH" in out


def test_no_compiler_but_asked_for(python):
    code, _, err = python(SHOW, PATH="/nowhere", CC="", TOKENMIX_KERNELS="c")
    assert code != 0
    assert "TOKENMIX_KERNELS: c asks for the native kernels, which do not load: none were compiled at install;" in err


def test_not_wanted(python, tmp_path):
    code, out, err = python(SHOW, TOKENMIX_KERNELS="torch")
    assert code == 0, err
    assert out.strip() == "plain torch: TOKENMIX_KERNELS=torch"
    assert not (tmp_path / "cache").exists()


def test_misspelt_choice(python):
    code, _, err = python(SHOW, TOKENMIX_KERNELS="C++")
    assert code != 0
    assert "TOKENMIX_KERNELS: expected one of auto, c, torch, found 'c++'" in err


def test_a_compiler_that_fails(python, tmp_path):
    broken = tmp_path / "broken-cc"
    broken.write_text("#!/bin/sh\necho out of luck >&2\nexit 1\n")
    broken.chmod(0o755)
    code, out, err = python(SHOW, CC=str(broken), PATH="/nowhere")
    assert code == 0, err
    assert "plain torch" in out
    assert "failed: out of luck" in out
    assert libraries(tmp_path / "cache") == []


@needs_compiler
def test_without_openmp(python, tmp_path):
    """A compiler without OpenMP: one thread serves."""
    picky = tmp_path / "picky-cc"
    compiler = build.find_compilers()[0][0]
    picky.write_text(f'#!/bin/sh\nfor x in "$@"; do [ "$x" = -fopenmp ] && exit 1; done\nexec {compiler} "$@"\n')
    picky.chmod(0o755)
    code, out, err = python(SHOW, CC=str(picky))
    assert code == 0, err
    assert "one thread: the compiler has no OpenMP" in out


@needs_compiler
def test_a_home_that_cannot_be_written(python, tmp_path):
    """A file stands where the cache folders would be: the user's own folder under TMPDIR serves."""
    (tmp_path / "file").write_text("")
    inside = str(tmp_path / "file" / "cache")
    code, out, err = python(SHOW, TOKENMIX_CACHE=inside, HOME=inside)
    assert code == 0, err
    assert str(tmp_path / "tmp") in out


@needs_compiler
def test_folders_that_others_may_write_are_not_trusted(python, tmp_path):
    shared = tmp_path / "cache"
    shared.mkdir()
    shared.chmod(stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO)
    code, out, err = python(SHOW)
    assert code == 0, err
    assert str(shared) not in out
    assert libraries(shared) == []


@needs_compiler
@pytest.mark.parametrize(
    ("file", "right", "wrong", "message"),
    [
        ("scan.h", "+ u * b[n];", "+ u;", "the probe expected"),  # B left out
        ("arguments.h", "int64_t softplus, threads;", "int64_t softplus;", "the library has another size of it"),
        ("native.c", "return TOKENMIX_HASH;", 'return "0123";', "made from other sources"),
        ("native.c", "tm_hash(void)", "tm_other(void)", "not a library of tokenmix"),
    ],
)
def test_wrong_libraries_are_refused(tmp_path, monkeypatch, file, right, wrong, message):
    """Planted faults: what they compile to is refused when it is loaded."""
    for path in build.FOLDER.glob("*.[ch]"):
        shutil.copy(path, tmp_path)
    source = tmp_path / file
    changed = source.read_text().replace(right, wrong)
    if "threads" in right:  # what reads the field must still compile
        for path in tmp_path.glob("*.h"):
            path.write_text(path.read_text().replace("s->threads", "1"))
    assert changed != (build.FOLDER / file).read_text()
    source.write_text(changed)
    digest = build.source_hash()
    monkeypatch.setattr(build, "FOLDER", tmp_path)
    with monkeypatch.context() as context:
        context.setattr(build, "source_hash", lambda: digest)
        context.setattr(build, "FLAGS", QUICK)
        build.compile_library(build.find_compilers(), tmp_path / "wrong.so")
    monkeypatch.setattr(build, "source_hash", lambda: digest)
    with pytest.raises(OSError, match=message):
        kernels.open_library(tmp_path / "wrong.so")


def test_float64_and_blocks_without_kernels():
    x = torch.ones(2)
    assert not kernels.serves(x.double())
    assert not kernels.serves(x, x.to("meta"))
    assert kernels.serves(x) == kernels.available()
    with kernels.use("torch"):
        assert not kernels.serves(x)
        with kernels.use("auto"):
            assert kernels.serves(x) == (kernels.status().path == "c")
    with pytest.raises(ValueError, match="path: expected 'auto' or 'torch', found 'c'"), kernels.use("c"):
        pass


@needs_compiler
def test_the_wheel_holds_a_library_for_every_python(tmp_path):
    """A wheel built from this folder is py3-none, and its library loads."""
    root = Path(kernels.__file__).parents[3]
    if not (root / "setup.py").exists():
        pytest.skip("tokenmix is installed without its sources")
    copy = tmp_path / "source"
    pytest.importorskip("setuptools", minversion="77", reason="building a wheel needs setuptools")
    kept = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "src")
    for name in kept:
        ignored = shutil.ignore_patterns("*.so", "*.egg-info", "__pycache__")
        if (root / name).is_dir():
            shutil.copytree(root / name, copy / name, ignore=ignored)
        else:
            copy.mkdir(exist_ok=True)
            shutil.copy(root / name, copy)
    flags = copy / build.__file__.removeprefix(f"{root}/")
    flags.write_text(flags.read_text().replace('"-O3"', '"-O0"'))  # the compiler need not try hard
    command = [sys.executable, "setup.py", "-q", "bdist_wheel", "-d", str(tmp_path)]
    result = subprocess.run(command, cwd=copy, capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    assert "-py3-none-" in wheel.name
    assert "any" not in wheel.name
    shutil.unpack_archive(wheel, tmp_path / "unpacked", "zip")
    found = tmp_path / "unpacked" / "tokenmix" / "kernels"
    assert (found / "native.c").exists()
    assert kernels.open_library(found / "libtokenmix.so").tm_level() >= 0


@needs_compiler
def test_a_compiler_with_arguments_and_one_that_fails_before_it(python, tmp_path):
    """CC may be a command; where it fails, the next compiler is tried."""
    wrapper = tmp_path / "wrapper"
    wrapper.write_text('#!/bin/sh\nexec "$@"\n')
    wrapper.chmod(0o755)
    for name, command in (("one", f"{wrapper} {build.find_compilers()[0][0]}"), ("two", str(wrapper))):
        (tmp_path / name).mkdir()
        code, out, err = python(SHOW, tmp_path / name, CC=command)
        assert code == 0, err
        assert out.startswith("native kernels"), out


@needs_compiler
def test_a_broken_library_is_compiled_anew(python, tmp_path):
    assert python(SHOW)[0] == 0
    (library,) = (tmp_path / "cache").glob("*.so")
    library.write_bytes(library.read_bytes()[:1000])
    code, out, err = python(SHOW)
    assert code == 0, err
    assert "compiled on this machine anew" in out


FIRST_USES = {
    "default dtype": "torch.set_default_dtype(torch.bfloat16); f(x)",
    "default device": "torch.set_default_device('meta'); f(x)",
    "fake tensors": (
        "from torch._subclasses import FakeTensorMode\n"
        "with FakeTensorMode(allow_non_fake_inputs=True) as m: f(m.from_tensor(x))"
    ),
    "export": "torch.export.export(M(), (x,))",
    "torch.func": "torch.func.grad(lambda y: f(y).sum())(x)",
}


@pytest.mark.parametrize("use", FIRST_USES)
def test_first_use_in_any_context(processes, use):
    """The library is loaded and proved in whatever context comes first."""
    code = (
        "import torch\nfrom tokenmix.ops.conv import depthwise_conv\nfrom tokenmix import kernels\n"
        "x, w = torch.randn(1, 9, 8), torch.randn(8, 4)\nf = lambda y: depthwise_conv(y, w.to(y.device))\n"
        "class M(torch.nn.Module):\n    def forward(self, y): return depthwise_conv(y, w)\n"
        f"{FIRST_USES[use]}\nprint(kernels.status().path)"
    )
    done = processes.run(["-c", code])
    assert done.returncode == 0, done.stderr[-1500:]
    assert done.stdout.split()[-1] == kernels.status().path
