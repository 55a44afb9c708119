"""Files for shim: what it says about each, asked by the protocol that loaders use, is recorded in verdicts.json."""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ec
from secureboot import asn1, files
from secureboot.authorities import Authority, ec_key, ed_key, make, rsa_key
from secureboot.files import attach, entry, pkcs7
from secureboot.firmware_cases import CODE_SIGNING, GARBAGE, MODULE_SIGNING, leaf, unknown
from secureboot.suite import CODE, PLAIN, SECTIONS, Cases, Lists, Marks, Suite, chain_of, sign

_FIRST_LINE = "sbat,1,SBAT Version,sbat,1,https://example.org"
# What the recorded shim carries as its level; the rows of docs/secure-boot.md are against it.
_TINY = b"\x31\xc0\xc3"


def with_sbat(*lines: str, end: str = "\n", name: str = ".sbat", extra: tuple[tuple[str, bytes], ...] = ()) -> bytes:
    """A file with a section .sbat."""
    content = "".join(line + end for line in lines).encode()
    return files.build_pe(_TINY, (name, content), *extra)


@dataclass
class World:
    """Everybody, and the lists that grow with the cases."""

    db: Lists = field(default_factory=Lists)
    dbx: Lists = field(default_factory=Lists)
    mok: Lists = field(default_factory=Lists)
    mokx: Lists = field(default_factory=Lists)
    marks: Marks = field(default_factory=Marks)
    cases: Cases = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.owner = make("Platform owner")
        self.root = make("Root in db")
        self.me = make("MOK")
        self.stranger = make("Stranger", key=rsa_key("another key"))
        self.in_dbx, self.in_mokx = make("in dbx"), make("in MokListX")
        self.db.trust(self.owner, self.root)
        self.mok.trust(self.me)
        self.dbx.trust(self.in_dbx)
        self.mokx.trust(self.in_mokx)
        self.good = entry(pkcs7(PLAIN, self.me))

    def anchor(self, name: str, *extensions: bytes, **options: object) -> Authority:
        authority = make(name, None, *extensions, **options)  # type: ignore[arg-type]
        self.mok.trust(authority)
        return authority

    def case(self, name: str, data: bytes) -> None:
        assert name not in self.cases, name
        self.cases[name] = data


def add_signers(w: World) -> None:
    w.case("signed by a MOK", sign(PLAIN, w.me))
    w.case("signed by a db certificate", sign(PLAIN, w.owner))
    w.case("leaf of a db root", sign(PLAIN, leaf("leaf of db root", w.root)))
    w.case("leaf of a MOK", sign(PLAIN, leaf("leaf of a MOK", w.me)))
    links = chain_of(3, "link", w.me)
    w.case("leaf, three intermediates, MOK", sign(PLAIN, leaf("deep leaf", links[-1]), chain=links))
    w.case("intermediate missing", sign(PLAIN, leaf("deep leaf", links[-1])))
    w.case("unsigned", PLAIN)
    w.case("stranger", sign(PLAIN, w.stranger))
    w.case("a stranger with a MOK's name", sign(PLAIN, make("MOK", key=rsa_key("mimic"), serial=99)))
    below = make("intermediate as MOK", make("root elsewhere"))
    w.mok.trust(below)
    w.case("intermediate as MOK, its root nowhere", sign(PLAIN, leaf("leaf of partial", below)))
    second = make("same length 2")
    first = make("same length 1")
    w.mok.raw.append(files.signature_list(files.CERT_X509, first.der, second.der))
    w.case("first certificate of a list of two", sign(PLAIN, first))
    w.case("second certificate of a list of two", sign(PLAIN, second))


def add_purposes(w: World) -> None:
    usage = asn1.extended_usage(CODE_SIGNING, MODULE_SIGNING)
    module = w.anchor("DKMS MOK", usage)
    w.case("MOK that may sign kernel modules", sign(PLAIN, module))
    w.case("leaf of a MOK that may sign kernel modules", sign(PLAIN, leaf("leaf of module MOK", module)))
    in_db = make("module signer in db", None, usage)
    w.db.trust(in_db)
    w.case("db certificate that may sign kernel modules", sign(PLAIN, in_db))
    w.case("leaf that may sign kernel modules, of a MOK", sign(PLAIN, leaf("module leaf", w.me, usage)))
    forbidden = make("module signer in dbx", w.me, usage)
    w.dbx.trust(forbidden)
    w.case("leaf that dbx has, which may sign kernel modules", sign(PLAIN, forbidden))
    w.case("leaf: unknown critical extension", sign(PLAIN, leaf("crit", w.me, unknown(critical=True))))
    w.case(
        "leaf: extended key usage serverAuth",
        sign(PLAIN, leaf("eku", w.me, asn1.extended_usage("1.3.6.1.5.5.7.3.1", critical=True))),
    )
    short = w.anchor("pathlen0", path_length=0)
    under = make("inter of pathlen0", short)
    w.case("path length exceeded", sign(PLAIN, leaf("leaf pl", under), chain=[under]))
    w.case("MOK that is no CA, leaf below", sign(PLAIN, leaf("leaf of none", w.anchor("no CA", ca=False))))
    constrained = w.anchor("permits a host", asn1.name_constraints((asn1.dns("good.example"),)))
    for word in ("good", "bad"):
        named = asn1.alternative_names(asn1.dns(f"a.{word}.example"))
        w.case(f"name constraints, {word} name", sign(PLAIN, leaf(f"{word} name", constrained, named)))
    old = make("Renewed CA", key=rsa_key("renewed"), serial=100)
    new = w.anchor("Renewed CA", key=rsa_key("renewed"), serial=200)
    named = asn1.authority_key(issuer=old.subject, serial=100)
    w.case("renewed MOK, leaf names the old serial", sign(PLAIN, leaf("old akid", new, named)))
    upper = asn1.name("mok", asn1.PRINTABLE)
    w.case("issuer's name in another case and type", sign(PLAIN, leaf("named", w.me, issuer_name=upper)))
    w.case("expired leaf", sign(PLAIN, leaf("expired", w.me, expired=True)))


def add_algorithms(w: World) -> None:
    for digest in ("sha384", "sha512", "sha1"):
        w.case(f"signed with {digest} by a MOK", sign(PLAIN, w.me, digest=digest))
    w.case("signed with sha512 by a db certificate", sign(PLAIN, w.owner, digest="sha512"))
    w.case("content SHA-256, signer SHA-512", sign(PLAIN, w.me, digest="sha512", content_digest="sha256"))
    w.case("content SHA-512, signer SHA-256", sign(PLAIN, w.me, content_digest="sha512"))
    w.case("announced SHA-1 and SHA-256", sign(PLAIN, w.me, announced=["sha1", "sha256"]))
    p256 = w.anchor("EC MOK", key=ec_key(7, ec.SECP256R1()))
    w.case("ECDSA MOK", sign(PLAIN, p256))
    w.case("RSA-PSS by a MOK", sign(PLAIN, w.me, pss=True))
    w.case("leaf whose certificate is signed with RSA-PSS", sign(PLAIN, leaf("by PSS", w.me, pss=True)))
    for digest in ("sha1", "md5", "sha512"):
        w.case(
            f"leaf whose certificate is signed with {digest}", sign(PLAIN, leaf(f"leaf {digest}", w.me, digest=digest))
        )
    w.case("RSA of 1024 bits, leaf", sign(PLAIN, leaf("rsa1024", w.me, key=rsa_key("x", 1024))))
    bulk = [make(f"bulk {i}", None, unknown(critical=False, size=8000), key=rsa_key("bulk")) for i in range(9)]
    w.case("PKCS #7 above 64 KiB", sign(PLAIN, w.me, chain=bulk))
    w.case("no signed attributes", sign(PLAIN, w.me, attributes=""))
    w.case("two signers in one, of one anchor", sign(PLAIN, leaf("leaf 1", w.me), leaf("leaf 2", w.me)))
    w.case("two signers in one, one a stranger", sign(PLAIN, w.me, w.stranger))


def add_several(w: World) -> None:
    bad = entry(pkcs7(PLAIN, w.me, image_digest=b"\x11" * 32))
    for name, *entries in (
        ("good, signer in dbx", w.good, entry(pkcs7(PLAIN, w.in_dbx))),
        ("signer in dbx, good", entry(pkcs7(PLAIN, w.in_dbx)), w.good),
        ("good, signer in MokListX", w.good, entry(pkcs7(PLAIN, w.in_mokx))),
        ("good, wrong digest", w.good, bad),
        ("wrong digest, good", bad, w.good),
        ("stranger, good", entry(pkcs7(PLAIN, w.stranger)), w.good),
        ("SHA-1, good", entry(pkcs7(PLAIN, w.me, digest="sha1")), w.good),
        ("good, garbage", w.good, entry(GARBAGE)),
        ("Ed25519, good", entry(pkcs7(PLAIN, leaf("ed", w.me, key=ed_key(9)))), w.good),
    ):
        w.case(f"two: {name}", attach(PLAIN, *entries))


def add_revocations(w: World) -> None:
    w.case("signer in dbx", sign(PLAIN, w.in_dbx))
    w.case("signer in MokListX", sign(PLAIN, w.in_mokx))
    both = make("MOK and in dbx")
    w.mok.trust(both)
    w.dbx.trust(both)
    w.case("signer a MOK and in dbx", sign(PLAIN, both))
    w.case("leaf of a CA in MokListX", sign(PLAIN, leaf("leaf of mokx", w.in_mokx)))
    revoked = make("CA in db, digest in dbx")
    w.db.trust(revoked)
    w.dbx.add_revoked(revoked)
    w.case("CA in db revoked by its digest, not embedded", sign(PLAIN, leaf("r1", revoked)))
    w.case("CA in db revoked by its digest, embedded", sign(PLAIN, leaf("r1", revoked), chain=[revoked]))
    own = w.anchor("MOK, digest in MokListX")
    w.mokx.add_revoked(own)
    w.case("MOK revoked by its digest in MokListX", sign(PLAIN, own))


def add_hashes(w: World) -> None:
    def new() -> bytes:
        return w.marks.next()

    w.case("hash in MokList, unsigned", w.mok.add_image(new()))
    w.case("hash in MokList, signer in dbx", sign(w.mok.add_image(new()), w.in_dbx))
    w.case("hash in MokList, table torn", attach(w.mok.add_image(new()), b"\xff" * 64))
    w.case("hash in db, unsigned", w.db.add_image(new()))
    w.case("SHA-1 hash in db, unsigned", w.db.add_image(new(), "sha1"))
    w.case("SHA-1 hash in MokList, unsigned", w.mok.add_image(new(), "sha1"))
    w.case("SHA-384 hash in db, unsigned", w.db.add_image(new(), "sha384"))
    w.case("hash in dbx, well signed", sign(w.dbx.add_image(new()), w.me))
    w.case("SHA-1 hash in dbx, well signed", sign(w.dbx.add_image(new(), "sha1"), w.me))
    w.case("SHA-384 hash in dbx, well signed", sign(w.dbx.add_image(new(), "sha384"), w.me))
    w.case("hash in MokListX, well signed", sign(w.mokx.add_image(new()), w.me))
    w.case("hash in MokList and MokListX, unsigned", w.mok.add_image(w.mokx.add_image(new())))


def add_sbat(w: World) -> None:
    def case(name: str, data: bytes) -> None:
        w.case(f".sbat: {name}", sign(data, w.me))

    case("of systemd's stub", with_sbat(_FIRST_LINE, "systemd-stub,1,systemd,systemd,257,https://systemd.io"))
    case("shim,1", with_sbat(_FIRST_LINE, "shim,1,UEFI shim,shim,1,https://example.org"))
    case("shim,3", with_sbat(_FIRST_LINE, "shim,3,UEFI shim,shim,1,https://example.org"))
    case("shim,4", with_sbat(_FIRST_LINE, "shim,4,UEFI shim,shim,1,https://example.org"))
    case("grub,2", with_sbat(_FIRST_LINE, "grub,2,GRUB,grub,2,https://example.org"))
    case("grub,99", with_sbat(_FIRST_LINE, "grub,99,GRUB,grub,2,https://example.org"))
    case("shim, generation is a word", with_sbat(_FIRST_LINE, "shim,new,UEFI shim,shim,1,https://example.org"))
    case("shim, generation 65540", with_sbat(_FIRST_LINE, "shim,65540,UEFI shim,shim,1,https://example.org"))
    case("shim, generation 65537", with_sbat(_FIRST_LINE, "shim,65537,UEFI shim,shim,1,https://example.org"))
    case("nonsense", with_sbat("nonsense"))
    case("five columns", with_sbat(_FIRST_LINE, "test,1,a,b,c"))
    case("seven columns", with_sbat(_FIRST_LINE, "test,1,a,b,c,d,e"))
    case("an empty column", with_sbat(_FIRST_LINE, "test,1,,b,c,d"))
    case("lines end with CR LF", with_sbat(_FIRST_LINE, "test,1,a,b,c,d", end="\r\n"))
    case("no end of line", with_sbat(_FIRST_LINE, end=""))
    case("blank lines", with_sbat("", _FIRST_LINE, "", "", "test,1,a,b,c,d", ""))
    case("only NUL", files.build_pe(_TINY, (".sbat", bytes(64))))
    case("NUL and then a revoked line", files.build_pe(_TINY, (".sbat", f"{_FIRST_LINE}\n\0shim,1,a,b,c,d\n".encode())))
    bom = b"\xef\xbb\xbf"
    case("byte order mark, shim,1", files.build_pe(_TINY, (".sbat", bom + b"shim,1,a,b,c,d\n")))
    second = (".sbat", f"{_FIRST_LINE}\n".encode())
    case("two sections", with_sbat(_FIRST_LINE, extra=(second,)))
    case("with relocations", with_sbat(_FIRST_LINE, name=".sbat!"))
    revoked = with_sbat("shim,1,a,b,c,d")
    case("longer in memory than in the file", files.patch(revoked, files.section_field(1, 8), "I", 0x900))
    w.case(".sbat: revoked, hash in MokList", w.mok.add_image(with_sbat("shim,1,revoked,b,c,d")))


def add_tables(w: World) -> None:
    w.case("table: 4 bytes behind", attach(PLAIN, w.good + bytes(4), size=len(w.good) + 4))
    w.case("table: 8 zeros behind, inside", attach(PLAIN, w.good + bytes(8)))
    w.case("table: 8 zeros behind, outside", attach(PLAIN, w.good, tail=bytes(8)))
    w.case("table: revision 1", attach(PLAIN, entry(pkcs7(PLAIN, w.me), revision=0x100)))
    w.case("table: EFI_GUID with PKCS #7", attach(PLAIN, entry(pkcs7(PLAIN, w.me), kind=0xEF1)))
    w.case("table: EFI_GUID, then good", attach(PLAIN, entry(pkcs7(PLAIN, w.stranger), kind=0xEF1), w.good))
    longer = files.build_pe(CODE, *SECTIONS, mark=900) + b"tail" * 16
    w.case("data between sections and table", sign(longer, w.me))
    w.case("unsigned, not a multiple of 8 bytes, hash in MokList", _unaligned(w))
    last = files.count_sections(PLAIN) - 1
    same = files.patch(PLAIN, files.section_field(last, 16), "II", 0x200, files.HEADERS_BYTES)
    w.case("two sections with the same bytes", sign(same, w.me))
    inside = files.patch(PLAIN, files.section_field(last, 20), "I", 0x200)
    w.case("a section that lies in the headers", sign(inside, w.me))
    stripped = files.patch(PLAIN, files._LFANEW + 22, "H", 0x020F)
    w.case("relocations stripped", sign(stripped, w.me))
    w.case("one byte of code changed", files.patch(attach(PLAIN, w.good), files.HEADERS_BYTES, "B", 0x33))


def _unaligned(w: World) -> bytes:
    data = files.build_pe(CODE, *SECTIONS, mark=901) + b"odd"
    # shim pads with zeros before it hashes, as signing would.
    w.mok.images.setdefault("sha256", []).append(files.pe_hash(data + bytes(-len(data) % 8), "sha256"))
    return data


def make_suite() -> Suite:
    """All files, the same bytes at every run."""
    w = World()
    for add in (
        add_signers,
        add_purposes,
        add_algorithms,
        add_several,
        add_revocations,
        add_hashes,
        add_sbat,
        add_tables,
    ):
        add(w)
    return Suite(w.cases, w.owner, w.db.encode(), w.dbx.encode(), w.mok.encode(), w.mokx.encode())
