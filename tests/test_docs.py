"""What the documents say is run: README commands, README Python, and results that come from files."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from chainrule import cli

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_readme_commands_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = [line for block in blocks("sh") for line in block.splitlines() if line.startswith("chainrule ")]
    assert len(lines) >= 12
    for line in lines:
        short = re.sub(r"--minutes \S+", "--steps 3 --size tiny", line)
        with pytest.raises(SystemExit) as stop:
            cli.main(shlex.split(short, comments=True)[1:])
        assert stop.value.code == 0, f"{line}\n{capsys.readouterr().err}"


def test_readme_python_runs(tmp_path):
    (code,) = blocks("python")
    result = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert 0 < float(result.stdout) < 17


def test_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", "\n".join(blocks("sh")), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_links_lead_somewhere():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert link.startswith("https://") or (page.parent / link).exists(), f"{page.name}: {link}"


def test_results_are_the_measured_ones():
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import write_results
    finally:
        sys.path.pop(0)
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == write_results.document()
