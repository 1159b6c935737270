"""Texts that try to become part of a page, as a model or a data file could hold them.

Each that runs sets `window.stolen`. The payloads are those of the usual cheat sheets: elements, attributes,
closing tags, encodings, template syntax, SVG and MathML, markdown.
"""

from html.parser import HTMLParser

RUN = "window.stolen=1"

HOSTILE = (
    f"<script>{RUN}</script>",
    f"</script><script>{RUN}</script>",
    f"<SCRIPT>{RUN}</SCRIPT>",
    f"<scr<script>ipt>{RUN}</script>",
    f"<script\n>{RUN}</script\n>",
    f"<script/x>{RUN}</script>",
    f"<script type=module>{RUN}</script>",
    f"<script src=data:text/javascript,{RUN}></script>",
    f"<img src=x onerror={RUN}>",
    f"<img src=x onerror='{RUN}'",
    f"<img/src=x/onerror={RUN}>",
    f'<img src=x:x onerror="{RUN}">',
    f"<svg onload={RUN}>",
    f"<svg><script>{RUN}</script></svg>",
    f"<svg><animate onbegin={RUN} attributeName=x dur=1s>",
    f"<svg><a xlink:href=javascript:{RUN}><text>x</text></a></svg>",
    f"<math><mtext></mtext><mglyph><style><img src=x onerror={RUN}></style></math>",
    f"<body onload={RUN}>",
    f"<iframe srcdoc='<script>parent.{RUN}</script>'></iframe>",
    f"<iframe src=javascript:parent.{RUN}></iframe>",
    f"<object data=javascript:{RUN}></object>",
    f"<embed src=javascript:{RUN}>",
    f"<a href=javascript:{RUN}>x</a>",
    f"<a href='java\tscript:{RUN}'>x</a>",
    f"<form action=javascript:{RUN}><button>x</button></form>",
    f"<input autofocus onfocus={RUN}>",
    f"<details open ontoggle={RUN}>x</details>",
    f"<video><source onerror={RUN}></video>",
    f"<audio src=x onerror={RUN}></audio>",
    f"<marquee onstart={RUN}>x</marquee>",
    f"<style>@import 'data:text/css,x'</style><div onpointerenter={RUN}>x</div>",
    f"<meta http-equiv=refresh content='0;url=javascript:{RUN}'>",
    "<base href='http://example.invalid/'>",
    f"<template><script>{RUN}</script></template>",
    f"<noscript><p title='</noscript><img src=x onerror={RUN}>'></noscript>",
    f"<textarea></textarea><img src=x onerror={RUN}>",
    f"</textarea></title></style></pre></code><img src=x onerror={RUN}>",
    f"--><img src=x onerror={RUN}><!--",
    f"]]><img src=x onerror={RUN}>",
    f"<![CDATA[<img src=x onerror={RUN}>]]>",
    f'" onmouseover={RUN} autofocus onfocus={RUN} x="',
    f"' onmouseover={RUN} autofocus onfocus={RUN} x='",
    f'x" style="animation-name:x" onanimationstart="{RUN}',
    f"`onload={RUN}`",
    f"&lt;script&gt;{RUN}&lt;/script&gt;",
    f"&#60;img src=x onerror={RUN}&#62;",
    f"\\u003cimg src=x onerror={RUN}\\u003e",
    f"\\x3cscript\\x3e{RUN}\\x3c/script\\x3e",
    f"+ADw-script+AD4-{RUN}+ADw-/script+AD4-",
    f"\u2028{RUN}\u2029",
    f"';{RUN};//",
    f'";{RUN};//',
    f"${{{RUN}}}",
    f"{{{{constructor.constructor('{RUN}')()}}}}",
    f"[x](javascript:{RUN})",
    f"![x](x){{onerror={RUN}}}",
    f"\\href{{javascript:{RUN}}}{{x}}",
    f"<b>bold</b><i>{RUN}</i>",
    f"\u202e<img src=x onerror={RUN}>",
    f"\x1b]8;;javascript:{RUN}\x07x\x1b]8;;\x07",
)


class _Structure(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[object] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.parts.append((tag, sorted(name for name, _ in attrs)))
        for name, value in attrs:
            assert not name.startswith("on"), (tag, name)
            # Addresses lead to pages of ours; a text in a path is quoted.
            if name in ("href", "src", "action", "data", "srcdoc"):
                assert (value or "").startswith(("/", "#", "data:image/", "data:,")), (tag, name, value)

    def handle_endtag(self, tag: str) -> None:
        self.parts.append(f"/{tag}")

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def handle_comment(self, data: str) -> None:
        self.parts.append("comment")

    def handle_decl(self, decl: str) -> None:
        self.parts.append("declaration")

    def unknown_decl(self, data: str) -> None:
        self.parts.append("unknown declaration")


def structure(html: str) -> tuple[list[object], str]:
    """Return elements with the names of their attributes, in order, and the text; addresses are checked."""
    parser = _Structure()
    parser.feed(html)
    parser.close()
    return parser.parts, "".join(parser.text)
