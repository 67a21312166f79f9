"""XMP packets: set properties in one and keep everything else it says (ISO 16684-1)."""

from __future__ import annotations

import re
from collections.abc import Sequence
from xml.etree import ElementTree

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_META = "adobe:ns:meta/"
_XML = "http://www.w3.org/XML/1998/namespace"
_PREFIXES = {
    _META: "x", _RDF: "rdf", "http://purl.org/dc/elements/1.1/": "dc", "http://ns.adobe.com/xap/1.0/": "xmp",
    "http://ns.adobe.com/xap/1.0/mm/": "xmpMM", "http://ns.adobe.com/xap/1.0/rights/": "xmpRights",
    "http://ns.adobe.com/xap/1.0/sType/ResourceEvent#": "stEvt", "http://ns.adobe.com/photoshop/1.0/": "photoshop",
    "http://ns.adobe.com/xap/1.0/sType/ResourceRef#": "stRef", "http://ns.adobe.com/tiff/1.0/": "tiff",
    "http://ns.adobe.com/exif/1.0/": "exif", "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/": "Iptc4xmpCore",
    "http://iptc.org/std/Iptc4xmpExt/2008-02-29/": "Iptc4xmpExt", "http://ns.useplus.org/ldf/xmp/1.0/": "plus",
}  # fmt: skip
_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_DEPTH_LIMIT = 100


class _Builder(ElementTree.TreeBuilder):
    """A tree with its comments, the prefixes its packet uses, and a bound on nesting."""

    def __init__(self) -> None:
        super().__init__(insert_comments=True, insert_pis=True)
        self.prefixes: dict[str, str] = {}
        self._depth = 0

    def start_ns(self, prefix: str, uri: str) -> None:
        if prefix and prefix not in self.prefixes.values():
            self.prefixes.setdefault(uri, prefix)

    def start(self, tag: str, attrs: dict[str, str], /) -> ElementTree.Element:
        self._depth += 1
        if self._depth > _DEPTH_LIMIT:
            raise ElementTree.ParseError(f"more than {_DEPTH_LIMIT} levels")
        return super().start(tag, attrs)

    def end(self, tag: str, /) -> ElementTree.Element:
        self._depth -= 1
        return super().end(tag)


def label_packet(packet: bytes | None, properties: Sequence[tuple[str, str]]) -> bytes:
    """See ``imaging.label_xmp``."""
    for name, text in properties:
        if not re.fullmatch(r"\{[^{}\s]+\}[A-Za-z_][\w.-]*", name) or _ILLEGAL.search(text):
            raise ValueError(f"label_xmp: expected ('{{namespace}}name', text), found {(name, text)!r}")
    root, prefixes = _read(packet or b"")
    rdf = next(root.iter(f"{{{_RDF}}}RDF"))
    descriptions = rdf.findall(f"{{{_RDF}}}Description")
    if not descriptions:
        descriptions = [ElementTree.SubElement(rdf, f"{{{_RDF}}}Description", {f"{{{_RDF}}}about": ""})]
    for name, text in properties:
        for description in descriptions:
            description.attrib.pop(name, None)
            for old in description.findall(name):
                description.remove(old)
        ElementTree.SubElement(descriptions[0], name).text = text
    _write_prefixes(root, prefixes)
    body = ElementTree.tostring(root, encoding="unicode").strip()
    return f'<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n{body}\n<?xpacket end="w"?>'.encode()


def _read(packet: bytes) -> tuple[ElementTree.Element, dict[str, str]]:
    """Root and prefixes of ``packet``; of an empty packet where it is broken."""
    try:
        text = packet.decode("utf-16" if packet[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig").strip("\0 \r\n\t")
        if "<!DOCTYPE" not in text:
            builder = _Builder()
            parser = ElementTree.XMLParser(target=builder)
            parser.feed(re.sub(r"<\?xpacket.*?\?>", "", text, flags=re.DOTALL).strip("\ufeff\0 \r\n\t"))
            root: ElementTree.Element = parser.close()
            if next(root.iter(f"{{{_RDF}}}RDF"), None) is not None:
                return root, builder.prefixes
    except (ElementTree.ParseError, ValueError):
        pass  # a broken packet says nothing that could be kept
    root = ElementTree.Element(f"{{{_META}}}xmpmeta")
    ElementTree.SubElement(root, f"{{{_RDF}}}RDF")
    return root, {}


def _write_prefixes(root: ElementTree.Element, prefixes: dict[str, str]) -> None:
    """Turns ``{namespace}name`` into ``prefix:name``, the packet's own prefixes first; declared once, on the root.

    ElementTree's own way is a table shared by the whole process: one packet's prefixes would turn up in the next.
    """
    used = {_XML: "xml"}

    def short(name: str) -> str:
        namespace, found, local = name[1:].rpartition("}")
        if not found:
            return name
        if namespace not in used:
            wanted = prefixes.get(namespace) or _PREFIXES.get(namespace) or "ns1"
            number = 1
            while wanted in used.values():
                number += 1
                wanted = f"ns{number}"
            used[namespace] = wanted
        return f"{used[namespace]}:{local}"

    for element in root.iter():
        if isinstance(element.tag, str):  # comments have none
            element.tag = short(element.tag)
            attributes = {short(key): value for key, value in element.attrib.items()}
            element.attrib.clear()
            element.attrib.update(attributes)
    declared = {f"xmlns:{prefix}": uri for uri, prefix in used.items() if uri != _XML}
    attributes = dict(root.attrib)
    root.attrib.clear()
    root.attrib.update(declared | attributes)
