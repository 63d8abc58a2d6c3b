"""One look at one file of an artifact: what was found so far, what is known beside it, and how much may still be unpacked."""

from dataclasses import dataclass, field

from modelreg.gate.report import INCOMPLETE, MAX_FINDINGS_OF_FILE, Finding, Objection, shown

MAX_DEPTH = 5  # archives in archives
MAX_MEMBERS = 4096  # of all archives in a file
MAX_UNPACKED_BYTES = 128 * 1024 * 1024  # of all archives in a file
MAX_MEMBER_BYTES = 64 * 1024 * 1024


@dataclass
class Spent:
    """What unpacking has cost, for a file and everything in it."""

    members: int = 0
    unpacked_bytes: int = 0


@dataclass
class Look:
    """The findings about a file. `inside` names the entry of an archive that is being looked at, or is empty.

    `names` are the paths of the artifact; None where they are not known, as inside of an archive.
    """

    path: str
    names: frozenset[str] | None
    findings: list[Finding] = field(default_factory=list)
    inside: str = ""
    depth: int = 0
    spent: Spent = field(default_factory=Spent)
    complete: bool = True

    @property
    def name(self) -> str:
        """The path by whose name the rules go: of the file, or of the entry."""
        return self.inside.rpartition("//")[2] or self.path

    def object(self, rule: str, what: str) -> None:
        """Add a finding; beyond the limit of one file only the first one counts, so there is always one."""
        if rule in INCOMPLETE:
            self.complete = False
        finding = Finding.of(self.path, rule, f"{shown(self.inside)}: {what}" if self.inside else what)
        if len(self.findings) < MAX_FINDINGS_OF_FILE and finding not in self.findings:
            self.findings.append(finding)

    def within(self, entry: str) -> "Look":
        """A look at an entry; it adds to the same findings.

        Raises:
            Objection: `limit`, where it is too deep or one entry too many.
        """
        if self.depth >= MAX_DEPTH:
            raise Objection("limit", f"archives are more than {MAX_DEPTH} deep in each other")
        self.spent.members += 1
        if self.spent.members > MAX_MEMBERS:
            raise Objection("limit", f"it has more than {MAX_MEMBERS} entries")
        inside = f"{self.inside}//{entry}" if self.inside else entry
        return Look(self.path, None, self.findings, inside, self.depth + 1, self.spent)

    def room(self) -> int:
        """How many bytes the next entry may unpack to."""
        return min(MAX_MEMBER_BYTES, MAX_UNPACKED_BYTES - self.spent.unpacked_bytes)
