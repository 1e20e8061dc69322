"""From file names to patterns: which part of a path is the sample, the date, the band, the split, the class.

A path is taken apart into tokens, each gets a role, and files whose paths then look alike are one layer. Roles follow
from words (train, B02, S2, label), from dates, and from which names come again in other folders; where two readings
remain, `signature` (bands and type of a file) decides.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import PurePosixPath

from geomaestro.data.files.patterns import parse
from geomaestro.data.init.words import DATE, is_band, is_kind, split_of

FREE, FIXED, SEP = "free", "fixed", "sep"  # roles beside id, date, band, split, label, kind, star
FIELDS = ("date", "band", "split", "label")
MOST_KINDS, MOST_CLASSES, MOST_TEMPLATES = 12, 200, 40  # assumed; more different names are samples
MOST_SIGNATURES = 12  # files opened to tell two readings apart
Signature = Callable[[str], Hashable]


@dataclass(slots=True)
class Token:
    """A piece of a path and its role."""

    text: str
    role: str = FREE


@dataclass
class Parts:
    """A path taken apart: tokens of each folder, and of the name without suffix."""

    path: str
    archive: str
    folders: list[list[Token]]
    stem: list[Token]
    suffix: str

    def all(self) -> list[list[Token]]:
        """Tokens of folders and name."""
        return [*self.folders, self.stem]

    def free(self) -> list[Token]:
        """Tokens of the name whose role is open."""
        return [token for token in self.stem if token.role == FREE]


@dataclass(frozen=True)
class File:
    """A file and the fields of its path."""

    path: str
    fields: dict[str, str]


@dataclass
class Layer:
    """Files whose paths are made alike: probably one product."""

    pattern: str
    kind: tuple[str, ...]
    files: list[File]
    notes: list[str] = field(default_factory=list)

    def ids(self, fields: Sequence[str]) -> set[tuple[str, ...]]:
        """Samples that have such a file."""
        return {tuple(file.fields.get(name, "") for name in fields) for file in self.files}


def find_layers(paths: Iterable[str], signature: Signature) -> tuple[list[Layer], list[str]]:
    """Layers, and what was assumed on the way."""
    groups: dict[tuple[str, int, str], list[Parts]] = defaultdict(list)
    for path in paths:
        parts = take_apart(path)
        groups[parts.archive, len(parts.folders), parts.suffix].append(parts)
    notes: list[str] = []
    for group in groups.values():
        for level in range(len(group[0].folders)):
            _name_folder(group, level, signature, notes)
        if any(token.role == "id" for folder in group[0].folders for token in folder):
            _name_within_samples(group)
        _name_stems(group, signature, notes)
    return _layers([parts for group in groups.values() for parts in group]), notes


def take_apart(path: str) -> Parts:
    """Tokens of a path; only dates have a role yet."""
    archive, bang, member = path.rpartition("!")
    pure = PurePosixPath(member if bang else path)
    name = pure.name
    suffix = ".zarr.zip" if name.endswith(".zarr.zip") else pure.suffix
    folders = [_tokens(part, split=False) for part in pure.parent.parts]
    return Parts(path, archive, folders, _tokens(name.removesuffix(suffix), split=True), suffix)


def _tokens(text: str, *, split: bool) -> list[Token]:
    out: list[Token] = []
    last = 0
    for found in [*DATE.finditer(text), None]:
        between = text[last : found.start() if found else len(text)]
        pieces = re.split(r"([_\-. ]+)", between) if split or found or last else [between]
        out += [Token(p, SEP if re.fullmatch(r"[_\-. ]+", p) else FREE) for p in pieces if p]
        if found:
            out.append(Token(found.group(), "date"))
            last = found.end()
    dates = [token for token in out if token.role == "date"]
    for token in dates[1:]:  # a second date in a name is of processing, or the end of a span
        token.role = "star"
    return out


def _name_folder(group: list[Parts], level: int, signature: Signature, notes: list[str]) -> None:
    """Give the folders of a level their role."""
    if any(token.role == "date" for parts in group for token in parts.folders[level]):
        for parts in group:
            for token in parts.folders[level]:
                token.role = FIXED if token.role == FREE else token.role
        return
    texts = ["".join(token.text for token in parts.folders[level]) for parts in group]
    values = list(dict.fromkeys(texts))
    role = _folder_role(group, level, texts, values, signature)
    if role == "label":
        notes.append(f"folders {', '.join(values[:3])} ... are taken for classes ({len(values)})")
    for parts, text in zip(group, texts, strict=True):
        parts.folders[level] = [Token(text, role)]


def _folder_role(group: list[Parts], level: int, texts: list[str], values: list[str], signature: Signature) -> str:
    if len(values) == 1:
        return "kind" if is_kind(values[0]) else FIXED
    if all(split_of(value) for value in values):
        return "split"
    if all(is_band(value) for value in values):
        return "band"
    if len(values) <= MOST_KINDS and sum(is_kind(value) for value in values) * 2 >= len(values):
        return "kind"
    below: dict[str, dict[str, str]] = defaultdict(dict)
    for parts, text in zip(group, texts, strict=True):
        below[text][_rest(parts, level, text)] = parts.path
    return _by_contents(below, signature)


def _rest(parts: Parts, level: int, own: str) -> str:
    """A path without one folder: dates, and the folder's own name, blotted out."""
    pieces = [
        "".join("@" if token.role in ("date", "star") else token.text for token in tokens)
        for number, tokens in enumerate(parts.all())
        if number != level
    ]
    return "/".join(pieces).replace(own, "#")


def _by_contents(below: dict[str, dict[str, str]], signature: Signature) -> str:
    """The role of folders by what is in them: kind, id or label."""
    values = list(below)
    rests = {rest for found in below.values() for rest in found}
    words = {rest: set(re.split(r"[_\-. /]+", rest)) for rest in rests}
    alike = set.intersection(*words.values()) if len(rests) > 1 else set()
    told = [rest for rest in rests if any(_tells(word) for word in words[rest] - (alike - {"@"}))]
    if len(told) * 2 >= len(rests):
        return "id"
    shared = _overlap([set(found) for found in below.values()]) >= 0.3
    by_value = {signature(next(iter(found.values()))) for found in list(below.values())[:MOST_SIGNATURES]}
    by_rest = {signature(path) for path in list(below[values[0]].values())[:MOST_SIGNATURES]}
    if len(by_value) > 1 and len(by_rest) == 1 and len(values) <= MOST_KINDS:
        return "kind"
    if len(by_rest) > 1 and len(by_value) == 1 and shared:
        return "id"
    numbered = all(any(c.isdigit() for c in rest) for rest in rests)
    if shared and not numbered:
        return "id"
    many = sum(len(found) for found in below.values()) >= 2 * len(values)
    return "label" if many and len(values) <= MOST_CLASSES and len(by_value) == 1 else "id"


def _tells(word: str) -> bool:
    return is_kind(word) or is_band(word) or word == "@"


def _overlap(sets: Sequence[set[str]]) -> float:
    """Mean share of names that come in two sets, of neighbours in the list."""
    shares = [len(a & b) / max(1, min(len(a), len(b))) for a, b in pairwise(sets[:50])]
    return sum(shares) / len(shares) if shares else 0.0


def _name_within_samples(group: list[Parts]) -> None:
    """Name the tokens of names in folders that are samples: what only tells the sample is a star, the rest a kind."""
    folders: dict[str, list[Parts]] = defaultdict(list)
    for parts in group:
        own = "/".join(t.text for tokens in parts.folders for t in tokens if t.role == "id")
        folders[own].append(parts)
        _blot(parts.stem, [t.text for tokens in parts.folders for t in tokens if t.role == "id"])
    common = [set.intersection(*({t.text for t in p.free()} for p in files)) for files in folders.values()]
    everywhere = set.intersection(*common)
    for found, files in zip(common, folders.values(), strict=True):
        for parts in files:
            for token in parts.free():
                if len(files) > 1 and len(folders) > 1 and token.text in found - everywhere:
                    token.role = "star"
            spans = [token for token in parts.stem if token.role in ("date", "star") and DATE.fullmatch(token.text)]
            if len(spans) > 1:
                for token in spans:
                    token.role = "star"
    templates = {"".join(t.text for t in p.stem if t.role == FREE) for p in group}
    if len(templates) > MOST_TEMPLATES:  # the name is a part of the sample's name
        return
    bands = {t.text for p in group for t in p.free() if is_band(t.text)}
    for parts in group:
        for token in parts.free():
            token.role = "band" if token.text in bands and len(bands) > 1 else "kind"


def _blot(stem: list[Token], names: list[str]) -> None:
    """Where a name repeats that of its folder, mark it as the sample."""
    for name in names:
        text = "".join(token.text for token in stem)
        at = text.find(name)
        if at >= 0 and (len(name) > 2 or text == name):
            left, right = text[:at], text[at + len(name) :]
            stem[:] = [*_tokens(left, split=True), Token(name, "id"), *_tokens(right, split=True)]


def _name_stems(group: list[Parts], signature: Signature, notes: list[str]) -> None:
    """Take words that tell from both ends of names, again and again; what stays names the sample."""
    labelled = any(token.role == "label" for folder in group[0].folders for token in folder)
    while any(_name_words(group, end) for end in (0, -1)):
        pass
    while any(_name_end(group, end, signature, notes, labelled=labelled) for end in (0, -1)):
        pass
    for parts in group:
        for token in parts.free():
            token.role = "id"


def _ends(group: list[Parts], end: int) -> tuple[list[tuple[Parts, Token]], list[str], bool]:
    """The first or last open token of all names, its values, and whether some name has no other."""
    ends = [(parts, parts.free()[end]) for parts in group if parts.free()]
    if len(ends) < len(group):
        return [], [], True
    return ends, list(dict.fromkeys(t.text for _, t in ends)), any(len(parts.free()) < 2 for parts, _ in ends)


def _name_words(group: list[Parts], end: int) -> bool:
    """Name the first or last open token of all names, if all of them are words that tell."""
    ends, values, single = _ends(group, end)
    known = all(is_band(value) or is_kind(value) or split_of(value) for value in values)
    if not ends or not known or len(values) > 2 * MOST_KINDS or (len(values) == 1 and single):
        return False
    bands = [value for value in values if is_band(value)]
    splits = all(split_of(value) for value in values)
    for _, token in ends:
        token.role = "split" if splits else "band" if token.text in bands and len(bands) > 1 else "kind"
    return True


def _name_end(group: list[Parts], end: int, signature: Signature, notes: list[str], *, labelled: bool) -> bool:
    """Name the first or last open token of all names, if it is always the same, or comes with the same other tokens."""
    ends, values, single = _ends(group, end)
    roles: dict[str, str] = {}
    if not ends or single:
        return False
    if len(values) == 1 and len(ends) > 1:
        roles = {values[0]: FIXED}
    elif 1 < len(values) <= MOST_KINDS and not any(value.isdigit() for value in values):
        roles = _by_ends(ends, values, signature, labelled=labelled)
        if "label" in roles.values():
            notes.append(f"{', '.join(values[:3])} ... in file names are taken for classes ({len(values)})")
    for _, token in ends:
        token.role = roles.get(token.text, FREE)
    return bool(roles)


def _by_ends(
    ends: list[tuple[Parts, Token]], values: list[str], signature: Signature, *, labelled: bool
) -> dict[str, str]:
    below: dict[str, dict[str, str]] = {value: {} for value in values}
    for parts, token in ends:
        below[token.text]["".join(t.text for t in parts.free() if t is not token)] = parts.path
    counts = [len(found) for found in below.values()]
    if sum(counts) < 2 * len(counts) or _overlap([set(found) for found in below.values()]) < 0.5:
        return {}
    kinds = {signature(next(iter(found.values()))) for found in below.values()}
    if len(kinds) > 1 or {value.lower() for value in values} <= {"pre", "post", "before", "after"}:
        return dict.fromkeys(values, "kind")
    return {} if labelled else dict.fromkeys(values, "label")


def _layers(everything: list[Parts]) -> list[Layer]:
    layers = _by_pattern(everything, whole=True)
    if not all(agrees(layer) for layer in layers):  # names with separators inside need a field for each piece
        pieces = _by_pattern(everything, whole=False)
        if all(agrees(layer) for layer in pieces) and len(pieces) == len(layers):
            layers = pieces
    return layers


def _by_pattern(everything: list[Parts], *, whole: bool) -> list[Layer]:
    layers: dict[tuple[str, tuple[str, ...]], Layer] = {}
    for parts in everything:
        pattern, fields, kind = _pattern(parts, whole=whole)
        layer = layers.setdefault((pattern, kind), Layer(pattern, kind, []))
        layer.files.append(File(parts.path, fields))
    return list(layers.values())


def _pattern(parts: Parts, *, whole: bool) -> tuple[str, dict[str, str], tuple[str, ...]]:
    """Pattern, fields and kind of a path; a name of several words is one field, or one for each."""
    fields: dict[str, str] = {}
    kind: list[str] = []
    pieces = []
    for tokens in parts.all():
        run = [(t.text, t.role) for t in tokens]
        pieces.append(_piece(_joined(run) if whole else run, fields, kind))
    prefix = f"{parts.archive}!" if parts.archive else ""
    suffix = parts.suffix.replace("{", "{{")
    return prefix + "/".join(pieces) + suffix, fields, tuple(kind)


def _joined(run: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Neighbouring tokens that name the sample as one, with what is between them; the same of stars."""
    for role in ("id", "star"):
        out: list[tuple[str, str]] = []
        for text, own in run:
            if own == role and len(out) > 1 and out[-1][1] == SEP and out[-2][1] == role:
                between = out.pop()[0]
                out[-1] = (out[-1][0] + between + text, role)
            else:
                out.append((text, own))
        run = out
    return run


def _piece(run: list[tuple[str, str]], fields: dict[str, str], kind: list[str]) -> str:
    out = ""
    for text, role in run:
        if role in FIELDS and fields.get(role, text) == text:
            fields[role] = text
            out += f"{{{role}}}"
        elif role == "id":
            same = [name for name, value in fields.items() if value == text and name.startswith("id")]
            name = same[0] if same else "id" if "id" not in fields else f"id{len([f for f in fields if f[:2] == 'id'])}"
            fields[name] = text
            out += f"{{{name}}}"
        elif role == "star" or role in FIELDS:
            out += "" if out.endswith("*") else "*"
        else:
            if role == "kind":
                kind.append(text)
            out += text.replace("{", "{{").replace("}", "}}")
    return out


def agrees(layer: Layer) -> bool:
    """Whether the pattern, read as the dataset will read it, gives the fields of every file."""
    for file in layer.files[:2000]:
        found = parse(layer.pattern.rpartition("!")[2], file.path.rpartition("!")[2])
        if found != file.fields:
            return False
    return True
