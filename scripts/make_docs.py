"""Collect the pages of the site that `make docs` builds with MkDocs (docs/mkdocs.yml).

Pages lie where they belong: in docs/, and as READMEs beside the code. This script copies all pages that can
be reached from README.md and the index into build/docs/source, at the same places, so that links between
pages stay as they are. A linked file that is no page is copied too. A link to a folder leads to its README,
or to the reference for protos/; other folders are not part of the site, and only the link's text remains.

It adds the reference: one page per proto file, from the comments in it, and the pages of the Python packages,
which mkdocstrings fills from the docstrings. MkDocs then checks every link and anchor (`--strict`).
"""

import html
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from google.protobuf import descriptor_pb2 as pb

ROOT = Path(__file__).resolve().parent.parent
SITE = ROOT / "build" / "docs" / "source"
START = (ROOT / "README.md", ROOT / "docs" / "README.md", ROOT / "SECURITY.md")
PROTOS = ROOT / "protos" / "extra_rl" / "v1"
NOT_ON_THE_SITE = "](#not-on-the-site)"
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")

#: Pages of the Python reference: name of the page, its title, and the modules on it.
PYTHON = {
    "client": ("Client", ["extra_client", "extra_client.embedded", "extra_client.errors"]),
    "aio": ("Asyncio client", ["extra_client.aio"]),
    "integrations": (
        "Plug-ins",
        [
            "extra_client.integrations",
            "extra_client.integrations.trl",
            "extra_client.integrations.trl_async",
            "extra_client.integrations.verl",
            "extra_client.integrations.openrlhf",
            "extra_client.integrations.prime_rl",
            "extra_client.integrations.slime",
            "extra_client.integrations.nemo_rl",
            "extra_client.integrations.contract",
        ],
    ),
    "contract": ("Contract", ["extra_rl.vocabulary", "extra_rl.groups"]),
    "training": ("Config of a training run", ["extra_trainer.config"]),
}

#: Numbers of the fields of FileDescriptorProto and DescriptorProto in the paths of SourceCodeInfo.
MESSAGE, ENUM, SERVICE, NESTED, NESTED_ENUM, MEMBER = 4, 5, 6, 3, 4, 2
PACKAGE = 2


def copy_pages() -> None:
    """Copy all pages that START leads to, and the files they link to."""
    waiting, done = list(START), set[Path]()
    while waiting:
        page = waiting.pop()
        if page in done:
            continue
        done.add(page)
        text, links = rewritten(page)
        target = place(page)
        target.write_text(text, encoding="utf-8")
        for link in links:
            if link.suffix == ".md":
                waiting.append(link)
            else:
                shutil.copyfile(link, place(link))


def place(path: Path) -> Path:
    """Return where a file of the repository lies in the site; its folder is made."""
    target = SITE / path.relative_to(ROOT)
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def rewritten(page: Path) -> tuple[str, list[Path]]:
    """Return the text of a page with links that lead somewhere in the site, and the files they lead to."""
    links: list[Path] = []

    def rewrite(match: re.Match[str]) -> str:
        link, anchor = match[1], match[2] or ""
        if "://" in link or link.startswith("mailto:"):
            return match[0]
        path = Path(os.path.normpath(page.parent / link))
        if path == PROTOS:
            return f"]({os.path.relpath(ROOT / 'reference' / 'api' / 'generation.md', page.parent)})"
        if path.is_dir():
            path = path / "README.md"
        if path.name.startswith(".") or (path.parent.is_dir() and not path.is_file()):
            return NOT_ON_THE_SITE
        links.append(path)
        return f"]({os.path.relpath(path, page.parent)}{anchor})"

    text = LINK.sub(rewrite, page.read_text(encoding="utf-8"))
    return re.sub(rf"\[([^\]]*){re.escape(NOT_ON_THE_SITE)}", r"\1", text), links


class ProtoFile:
    """A proto file as a page of the reference."""

    def __init__(self, descriptor: pb.FileDescriptorProto) -> None:
        self.descriptor = descriptor
        self.name = Path(descriptor.name).stem
        self._comments = {
            tuple(place.path): place.leading_comments for place in descriptor.source_code_info.location
        }

    def page(self) -> str:
        """Return the page in Markdown."""
        lines = [f"# {self.name}.proto", "", self._comment((PACKAGE,))]
        for index, service in enumerate(self.descriptor.service):
            lines += self._service(service, (SERVICE, index))
        for index, message in enumerate(self.descriptor.message_type):
            lines += self._message(message, (MESSAGE, index), "")
        for index, enum in enumerate(self.descriptor.enum_type):
            lines += self._enum(enum, (ENUM, index), "")
        return "\n".join(lines) + "\n"

    def _comment(self, path: Sequence[int]) -> str:
        text = self._comments.get(tuple(path), "")
        return html.escape("\n".join(line.removeprefix(" ") for line in text.splitlines()), quote=False)

    def _service(self, service: pb.ServiceDescriptorProto, path: tuple[int, ...]) -> Iterator[str]:
        yield from ("", f"## {service.name} (service)", "", self._comment(path))
        for index, method in enumerate(service.method):
            yield from ("", f"### {method.name}", "", self._comment((*path, MEMBER, index)), "")
            asked = ("stream of " if method.client_streaming else "") + link(method.input_type)
            given = ("stream of " if method.server_streaming else "") + link(method.output_type)
            yield f"{asked} → {given}"

    def _message(self, message: pb.DescriptorProto, path: tuple[int, ...], outer: str) -> Iterator[str]:
        name = outer + message.name
        yield from heading(name, f".{self.descriptor.package}.{name}")
        yield self._comment(path)
        yield ""
        for index, member in enumerate(message.field):
            comment = self._comment((*path, MEMBER, index)).replace("\n", "\n    ")
            yield f"-   `{member.name}` ({kind(member)}, {member.number}): {comment}"
        for index, enum in enumerate(message.enum_type):
            yield from self._enum(enum, (*path, NESTED_ENUM, index), f"{name}.")
        for index, nested in enumerate(message.nested_type):
            if not nested.options.map_entry:
                yield from self._message(nested, (*path, NESTED, index), f"{name}.")

    def _enum(self, enum: pb.EnumDescriptorProto, path: tuple[int, ...], outer: str) -> Iterator[str]:
        name = outer + enum.name
        yield from heading(f"{name} (enum)", f".{self.descriptor.package}.{name}")
        yield self._comment(path)
        yield ""
        for index, value in enumerate(enum.value):
            comment = self._comment((*path, MEMBER, index)).replace("\n", "\n    ")
            yield f"-   `{value.name}` ({value.number}): {comment}"


def heading(title: str, full_name: str) -> tuple[str, ...]:
    """Return a heading that can be linked to by the full name of a type."""
    return ("", f"## {title} {{ #{full_name.strip('.')} }}", "")


def kind(member: pb.FieldDescriptorProto) -> str:
    """Return the type of a field, with a link if it is a message or enum."""
    scalar = pb.FieldDescriptorProto.Type.Name(member.type).removeprefix("TYPE_").lower()
    name = link(member.type_name) if member.type_name else scalar
    if member.label == pb.FieldDescriptorProto.LABEL_REPEATED:
        return f"repeated {name}"
    return f"optional {name}" if member.proto3_optional else name


def link(full_name: str) -> str:
    """Return a link to a type of this API, or the name of another one."""
    name = full_name.strip(".")
    return f"[{name.rpartition('.')[2]}]({FILES[name]}.md#{name})" if name in FILES else name


#: The file of each message and enum, by full name.
FILES: dict[str, str] = {}


def write_api() -> None:
    """Write a page for each proto file."""
    buf = shutil.which("buf", path=str(Path(sys.executable).parent)) or "buf"
    built = subprocess.run(
        [buf, "build", "--output", "-", "--as-file-descriptor-set"], cwd=ROOT, check=True, stdout=-1
    ).stdout
    files = [file for file in pb.FileDescriptorSet.FromString(built).file if file.package == "extra_rl.v1"]
    for file in files:
        names = [message.name for message in file.message_type] + [enum.name for enum in file.enum_type]
        FILES.update({f"{file.package}.{name}": Path(file.name).stem for name in names})
    for file in files:
        page = ProtoFile(file)
        place(ROOT / "reference" / "api" / f"{page.name}.md").write_text(page.page(), encoding="utf-8")


def write_python() -> None:
    """Write the pages that mkdocstrings fills."""
    for name, (title, modules) in PYTHON.items():
        text = "\n\n".join([f"# {title}", *(f"::: {module}" for module in modules)])
        place(ROOT / "reference" / "python" / f"{name}.md").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    shutil.rmtree(SITE, ignore_errors=True)
    copy_pages()
    write_api()
    write_python()
