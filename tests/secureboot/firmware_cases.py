"""Files for the firmware: what EDK II says about each is recorded in verdicts.json."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric import ec
from secureboot import asn1, files
from secureboot.authorities import Authority, ec_key, ed_key, make, rsa_key
from secureboot.files import attach, entry, pe_hash, pkcs7
from secureboot.suite import CODE, PLAIN, SECTIONS, Cases, Lists, Marks, Suite, chain_of, sign

UNKNOWN = "1.3.6.1.4.1.99999.1"
GARBAGE = b"\x30\x82\x01\x00" + b"\xff" * 256
MODULE_SIGNING, CODE_SIGNING = "1.3.6.1.4.1.2312.16.1.2", "1.3.6.1.5.5.7.3.3"


def unknown(*, critical: bool, size: int = 0) -> bytes:
    return asn1.extension(UNKNOWN, asn1.tlv(asn1.OCTETS, bytes(size)), critical=critical)


def leaf(name: str, issuer: Authority, *extensions: bytes, **options: object) -> Authority:
    return make(name, issuer, *extensions, ca=False, **options)  # type: ignore[arg-type]


@dataclass
class World:
    """Everybody, and the lists that grow with the cases."""

    db: Lists = field(default_factory=Lists)
    dbx: Lists = field(default_factory=Lists)
    marks: Marks = field(default_factory=Marks)
    cases: Cases = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.me = make("Signer in db")
        self.root = make("Test Root R")
        self.inter = make("Test Inter", self.root)
        self.leaf = leaf("leaf", self.root)
        self.stranger = make("Stranger", key=rsa_key("another key"))
        self.forbidden = make("Forbidden")
        self.db.trust(self.me, self.root)
        self.dbx.trust(self.forbidden)
        self.good = entry(pkcs7(PLAIN, self.me))
        self.bad = entry(pkcs7(PLAIN, self.me, image_digest=b"\x11" * 32))
        self.by_stranger = entry(pkcs7(PLAIN, self.stranger))
        self.by_forbidden = entry(pkcs7(PLAIN, self.forbidden))

    def anchor(self, name: str, *extensions: bytes, **options: object) -> Authority:
        authority = make(name, None, *extensions, **options)  # type: ignore[arg-type]
        self.db.trust(authority)
        return authority

    def case(self, name: str, data: bytes) -> None:
        assert name not in self.cases, name
        self.cases[name] = data


def add_chains(w: World) -> None:
    w.case("self-signed in db", sign(PLAIN, w.me))
    w.case("unsigned", PLAIN)
    w.case("leaf of a db CA", sign(PLAIN, w.leaf))
    w.case("leaf of a db CA, CA embedded", sign(PLAIN, w.leaf, chain=[w.root]))
    w.case("leaf, intermediate embedded, root in db", sign(PLAIN, leaf("leaf of inter", w.inter), chain=[w.inter]))
    w.case("intermediate missing", sign(PLAIN, leaf("leaf of inter", w.inter)))
    w.case("stranger", sign(PLAIN, w.stranger))
    w.case("signer in db, no CA", sign(PLAIN, w.anchor("no CA, self-signed", ca=False)))
    w.case("a stranger with a db signer's name", sign(PLAIN, make("Signer in db", key=rsa_key("mimic"), serial=99)))
    below = make("intermediate in db", make("root elsewhere"))
    w.db.trust(below)
    w.case("intermediate in db, its root nowhere", sign(PLAIN, leaf("leaf of partial", below)))
    links = chain_of(6, "long chain", w.root)
    w.case("six intermediates", sign(PLAIN, leaf("leaf of long chain", links[-1]), chain=links))
    fake = make("Twin", w.root, key=rsa_key("fake twin"), serial=1)
    true = make("Twin", w.root, key=rsa_key("true twin"), serial=2)
    below_true = leaf("leaf of twin", true)
    w.case("two issuers of one name, the wrong one first", sign(PLAIN, below_true, chain=[fake, true]))
    w.case("two issuers of one name, the right one first", sign(PLAIN, below_true, chain=[true, fake]))
    w.case("a leaf whose signature is wrong", sign(PLAIN, leaf("badly signed", w.root, bad_signature=True)))
    cross = make("cross key", w.root, key=rsa_key("cross"))
    cross_root = make("Forbidden cross root")
    w.dbx.trust(cross_root)
    other = make("cross key", cross_root, key=rsa_key("cross"), serial=7)
    below_cross = leaf("leaf of cross", cross)
    w.case("cross-signed by a db root and a dbx root, db first", sign(PLAIN, below_cross, chain=[cross, other]))
    w.case("cross-signed by a db root and a dbx root, dbx first", sign(PLAIN, below_cross, chain=[other, cross]))
    w.case("expired leaf", sign(PLAIN, leaf("expired leaf", w.root, expired=True)))


def add_algorithms(w: World) -> None:
    p256 = w.anchor("EC self", key=ec_key(7, ec.SECP256R1()))
    w.case("ECDSA P-256, self-signed in db", sign(PLAIN, p256))
    p384 = leaf("EC384 leaf of R", w.root, key=ec_key(8, ec.SECP384R1()))
    w.case("ECDSA P-384, leaf of an RSA CA", sign(PLAIN, p384, digest="sha384"))
    w.case("RSA leaf of an ECDSA CA", sign(PLAIN, leaf("rsa leaf of EC CA", p256)))
    w.case("RSA-PSS signature", sign(PLAIN, w.leaf, pss=True))
    w.case("leaf whose certificate is signed with RSA-PSS", sign(PLAIN, leaf("leaf by PSS", w.root, pss=True)))
    for digest in ("sha384", "sha512", "sha1", "md5"):
        w.case(f"signed with {digest}", sign(PLAIN, w.leaf, digest=digest))
        w.case(
            f"leaf whose certificate is signed with {digest}",
            sign(PLAIN, leaf(f"leaf {digest}", w.root, digest=digest)),
        )
    named = asn1.algorithm("1.2.840.113549.1.1.11")
    w.case("signature algorithm named sha256WithRSA", sign(PLAIN, w.leaf, algorithm=named))
    w.case("signature algorithm named nonsense", sign(PLAIN, w.leaf, algorithm=asn1.algorithm("1.2.3.4")))
    w.case("RSA of 1024 bits, leaf", sign(PLAIN, leaf("rsa1024", w.root, key=rsa_key("x", 1024))))
    w.case("RSA of 4096 bits, leaf", sign(PLAIN, leaf("rsa4096", w.root, key=rsa_key("x", 4096)), digest="sha512"))
    small = w.anchor("rsa1024 root", key=rsa_key("x", 1024))
    w.case("RSA of 1024 bits, CA in db", sign(PLAIN, leaf("leaf of 1024", small)))


def add_extensions(w: World) -> None:
    w.case("leaf: unknown critical extension", sign(PLAIN, leaf("crit leaf", w.root, unknown(critical=True))))
    w.case("leaf: unknown extension", sign(PLAIN, leaf("noncrit leaf", w.root, unknown(critical=False))))
    inter = make("crit inter", w.root, unknown(critical=True))
    w.case("intermediate: unknown critical extension", sign(PLAIN, leaf("leaf of crit", inter), chain=[inter]))
    root = w.anchor("crit root", unknown(critical=True))
    w.case("CA in db: unknown critical extension", sign(PLAIN, leaf("leaf of crit root", root)))
    w.case("signer in db: unknown critical extension", sign(PLAIN, root))
    policies = asn1.extension("2.5.29.32", asn1.sequence(asn1.sequence(asn1.oid("2.5.29.32.0"))), critical=True)
    w.case("leaf: critical certificate policies", sign(PLAIN, leaf("policies", w.root, policies)))
    ids = asn1.subject_key(b"\x01" * 20)[:-22] + b"\x04\x14" + b"\x01" * 20
    w.case("leaf: subject key id", sign(PLAIN, leaf("with skid", w.root, ids)))
    proxy_policy = asn1.sequence(asn1.sequence(asn1.oid("1.3.6.1.5.5.7.21.1")))
    proxy = asn1.extension("1.3.6.1.5.5.7.1.14", proxy_policy, critical=True)
    w.case("leaf: proxy certificate", sign(PLAIN, leaf("proxy", w.root, proxy, has_basic=False)))
    w.case("leaf: the same extension twice", sign(PLAIN, leaf("twice", w.root, *[unknown(critical=False)] * 2)))
    w.case("leaf: key usage without digitalSignature", sign(PLAIN, leaf("leaf ku", w.root, asn1.key_usage(2))))
    w.case(
        "leaf: extended key usage serverAuth, critical",
        sign(PLAIN, leaf("eku", w.root, asn1.extended_usage("1.3.6.1.5.5.7.3.1", critical=True))),
    )
    module = w.anchor("DKMS MOK", asn1.extended_usage(CODE_SIGNING, MODULE_SIGNING))
    w.case("signer in db may sign kernel modules", sign(PLAIN, module))
    short = w.anchor("root pathlen0", path_length=0)
    under = make("inter of pathlen0", short)
    w.case("path length exceeded", sign(PLAIN, leaf("leaf pl", under), chain=[under]))
    w.case("path length respected", sign(PLAIN, leaf("leaf pl ok", short)))
    self_issued = make("root pathlen0", short, key=rsa_key("rollover"), serial=5)
    w.case(
        "a rollover certificate with the name of its CA, CA in db",
        sign(PLAIN, leaf("leaf rollover", self_issued), chain=[self_issued]),
    )
    w.case("CA in db is none", sign(PLAIN, leaf("leaf of nonca", w.anchor("Not a CA", ca=False))))
    unable = w.anchor("root KU no certsign", asn1.key_usage(0))
    w.case("CA in db: key usage without keyCertSign", sign(PLAIN, leaf("leaf of ku", unable)))
    w.case("signer in db: key usage without keyCertSign", sign(PLAIN, unable))
    only_usage = w.anchor("root with usage only", asn1.key_usage(5), has_basic=False)
    w.case("CA in db: key usage, no basic constraints", sign(PLAIN, leaf("leaf of usage only", only_usage)))
    bare = w.anchor("root without anything", has_basic=False)
    w.case("CA in db: version 3, no basic constraints", sign(PLAIN, leaf("leaf of bare", bare)))
    w.case("CA in db: version 1", sign(PLAIN, leaf("leaf of v1", w.anchor("v1 root", version=1))))
    w.case("leaf: version 1", sign(PLAIN, leaf("v1 leaf", w.root, version=1)))
    for serial in (0, -5):
        w.case(f"leaf: serial number {serial}", sign(PLAIN, leaf(f"serial {serial}", w.root, serial=serial)))
    w.case("signer in db: negative serial number", sign(PLAIN, w.anchor("negative self", serial=-9)))
    w.case("leaf: serial number of 30 bytes", sign(PLAIN, leaf("long serial", w.root, serial=1 << 239)))


def add_authority_keys(w: World) -> None:
    keyed = w.anchor("root with skid", asn1.extension("2.5.29.14", asn1.tlv(asn1.OCTETS, b"\x42" * 20)))
    w.case("authority key id matches", sign(PLAIN, leaf("akid ok", keyed, asn1.authority_key(key_id=b"\x42" * 20))))
    w.case("authority key id does not match", sign(PLAIN, leaf("akid", keyed, asn1.authority_key(key_id=b"\xaa" * 20))))
    w.case(
        "authority key id, CA has none", sign(PLAIN, leaf("akid none", w.root, asn1.authority_key(key_id=b"\xaa" * 20)))
    )
    old = make("Renewed CA", key=rsa_key("renewed"), serial=100)
    new = w.anchor("Renewed CA", key=rsa_key("renewed"), serial=200)
    for word, serial in (("old", 100), ("new", 200)):
        named = asn1.authority_key(issuer=old.subject, serial=serial)
        w.case(f"renewed CA in db, leaf names the {word} serial", sign(PLAIN, leaf(f"leaf {word} akid", new, named)))
    other = asn1.authority_key(issuer=asn1.name("somebody"), serial=200)
    w.case("renewed CA in db, leaf names another issuer of it", sign(PLAIN, leaf("leaf other akid", new, other)))
    w.case("renewed CA in db, leaf names none", sign(PLAIN, leaf("leaf no akid", old)))


def add_names(w: World) -> None:
    for word, name in (
        ("differs in case and blanks", asn1.name("TEST  root r ")),
        ("is a PrintableString", asn1.name("Test Root R", asn1.PRINTABLE)),
        ("is a BMPString", asn1.name("Test Root R", asn1.BMP)),
        ("is a T61String", asn1.name("Test Root R", asn1.T61)),
        ("has another attribute", asn1.name("Test Root R", kind="2.5.4.10")),
        ("lacks a blank", asn1.name("TestRoot R")),
    ):
        w.case(f"issuer's name {word}", sign(PLAIN, leaf(f"named {word}", w.root, issuer_name=name)))


def add_constraints(w: World) -> None:
    sub = asn1.name("inside", kind="2.5.4.10")
    inside = asn1.sequence(sub[2:], asn1.name("x")[2:])
    kinds = {
        "DNS": (asn1.dns("good.example"), asn1.dns("a.good.example"), asn1.dns("bad.example")),
        "e-mail": (asn1.email("good.example"), asn1.email("a@good.example"), asn1.email("a@bad.example")),
        "URI": (asn1.uri(".good.example"), asn1.uri("https://a.good.example/x"), asn1.uri("https://bad.example/")),
        "address": (asn1.address(b"\x0a\0\0\0\xff\0\0\0"), asn1.address(b"\x0a\1\1\1"), asn1.address(b"\x0b\0\0\1")),
    }
    for kind, (base, good, bad) in kinds.items():
        permits = w.anchor(f"permits {kind}", asn1.name_constraints((base,)))
        excludes = w.anchor(f"excludes {kind}", asn1.name_constraints((), (base,)))
        for word, name in (("below", good), ("beside", bad)):
            named = asn1.alternative_names(name)
            w.case(f"{kind} permitted, leaf {word}", sign(PLAIN, leaf(f"{kind} p {word}", permits, named)))
            w.case(f"{kind} excluded, leaf {word}", sign(PLAIN, leaf(f"{kind} e {word}", excludes, named)))
    root = w.anchor("permits a directory", asn1.name_constraints((asn1.directory(sub),)))
    w.case("directory permitted, leaf below", sign(PLAIN, leaf("in directory", root, subject=inside)))
    w.case("directory permitted, leaf beside", sign(PLAIN, leaf("beside directory", root)))
    dns = w.anchor("permits a host", asn1.name_constraints((asn1.dns("good.example"),)))
    w.case("DNS permitted, common name is a host beside", sign(PLAIN, leaf("www.bad.example", dns)))
    w.case("DNS permitted, common name is none", sign(PLAIN, leaf("no host", dns)))
    bounds = w.anchor("bounds", asn1.name_constraints((asn1.dns("good.example"),), tail=asn1.tlv(0x80, b"\1")))
    named = asn1.alternative_names(asn1.dns("a.good.example"))
    w.case("DNS permitted with a minimum", sign(PLAIN, leaf("in bounds", bounds, named)))


def add_tables(w: World) -> None:
    w.case("table: revision 1", attach(PLAIN, entry(pkcs7(PLAIN, w.me), revision=0x100)))
    w.case("table: EFI_GUID with PKCS #7", attach(PLAIN, entry(pkcs7(PLAIN, w.me), kind=0xEF1)))
    w.case("table: EFI_GUID of something else", attach(PLAIN, entry(pkcs7(PLAIN, w.me), kind=0xEF1, guid=files.OWNER)))
    short = entry(pkcs7(PLAIN, w.me), padded=False)
    odd = next(
        (one for one in (short, entry(pkcs7(PLAIN, w.me, chain=[w.root]), padded=False)) if len(one) % 8), short + b"\0"
    )
    w.case("table: length not padded", attach(PLAIN, odd))
    w.case("table: 4 bytes behind", attach(PLAIN, w.good + bytes(4), size=len(w.good) + 4))
    w.case("table: 8 zeros behind, outside", attach(PLAIN, w.good, tail=bytes(8)))
    w.case("table: 8 zeros behind, inside", attach(PLAIN, w.good + bytes(8)))
    w.case("table: padding that is not zero", attach(PLAIN, entry(pkcs7(PLAIN, w.me) + b"\xff" * 8)))
    w.case("table: an entry of 8 bytes in front", attach(PLAIN, struct.pack("<IHH", 8, 0x200, 2), w.good))
    w.case("table: an entry of 4 bytes in front", attach(PLAIN, struct.pack("<IHHQ", 4, 0x200, 1, 0), w.good))
    w.case("table: an unknown type in front", attach(PLAIN, struct.pack("<IHHQ", 16, 0x200, 1, 0), w.good))
    w.case("table: longer than the file", attach(PLAIN, w.good, size=len(w.good) + 64))
    w.case("table: points into a section", files.patch(attach(PLAIN, w.good), files.SECURITY, "II", 0x600, len(w.good)))
    w.case("table: at offset 0", files.patch(attach(PLAIN, w.good), files.SECURITY, "II", 0, len(w.good)))
    w.case("table: of length 0", files.patch(attach(PLAIN, w.good), files.SECURITY, "II", len(PLAIN), 0))
    w.case("data behind the table", attach(PLAIN, w.good, tail=b"evil" * 4))
    longer = files.build_pe(CODE, *SECTIONS, mark=900) + b"tail" * 16
    w.case("data between sections and table", sign(longer, w.me))
    w.case("checksum changed", files.patch(attach(PLAIN, w.good), files.CHECKSUM, "I", 0x12345678))


def add_several(w: World) -> None:
    for name, *entries in (
        ("good, wrong digest", w.good, w.bad),
        ("wrong digest, good", w.bad, w.good),
        ("good, forbidden", w.good, w.by_forbidden),
        ("forbidden, good", w.by_forbidden, w.good),
        ("stranger, good", w.by_stranger, w.good),
        ("good, stranger", w.good, w.by_stranger),
        ("stranger with SHA-1, good", entry(pkcs7(PLAIN, w.stranger, digest="sha1")), w.good),
        ("good, the same with SHA-1", w.good, entry(pkcs7(PLAIN, w.me, digest="sha1"))),
        ("good, garbage", w.good, entry(GARBAGE)),
        ("garbage, good", entry(GARBAGE), w.good),
        ("good, RSA-PSS by a stranger", w.good, entry(pkcs7(PLAIN, w.stranger, pss=True))),
        ("good, signer's certificate missing", w.good, entry(pkcs7(PLAIN, w.me, embeds=False))),
        ("signer's certificate missing, good", entry(pkcs7(PLAIN, w.me, embeds=False)), w.good),
        ("good, truncated DER", w.good, entry(pkcs7(PLAIN, w.me)[:-100])),
        ("forbidden with revision 1, good", entry(pkcs7(PLAIN, w.forbidden), revision=0x100), w.good),
        ("forbidden as EFI_GUID, good", entry(pkcs7(PLAIN, w.forbidden), kind=0xEF1), w.good),
        ("forbidden with SHA-1, good", entry(pkcs7(PLAIN, w.forbidden, digest="sha1")), w.good),
        ("forbidden with a wrong digest, good", entry(pkcs7(PLAIN, w.forbidden, image_digest=bytes(32))), w.good),
    ):
        w.case(f"two: {name}", attach(PLAIN, *entries))
    ed = leaf("ed25519", w.root, key=ed_key(9))
    w.case("two: Ed25519, good", attach(PLAIN, entry(pkcs7(PLAIN, ed)), w.good))
    w.case("three: stranger, garbage, good", attach(PLAIN, w.by_stranger, entry(GARBAGE), w.good))


def add_hashes(w: World) -> None:
    def new() -> bytes:
        return w.marks.next()

    w.case("hash in db, unsigned", w.db.add_image(new()))
    w.case("SHA-1 hash in db, unsigned", w.db.add_image(new(), "sha1"))
    w.case("hash in db, signed by a stranger", sign(w.db.add_image(new()), w.stranger))
    w.case("hash in db, signed by a forbidden one", sign(w.db.add_image(new()), w.forbidden))
    w.case("SHA-384 hash in db, unsigned", w.db.add_image(new(), "sha384"))
    w.case("hash in db, a stranger signed with SHA-512", sign(w.db.add_image(new()), w.stranger, digest="sha512"))
    w.case(
        "SHA-512 hash in db, a stranger signed with it",
        sign(w.db.add_image(new(), "sha512"), w.stranger, digest="sha512"),
    )
    w.case("hash in db, table torn", attach(w.db.add_image(new()), b"\xff" * 64))
    marked = w.db.add_image(new())
    w.case("hash in db, only garbage", attach(marked, entry(GARBAGE)))
    w.case("hash in dbx, unsigned", w.dbx.add_image(new()))
    w.case("hash in db and dbx, unsigned", w.db.add_image(w.dbx.add_image(new())))
    w.case("hash in dbx, well signed", sign(w.dbx.add_image(new()), w.me))
    w.case("SHA-384 hash in dbx, well signed with SHA-256", sign(w.dbx.add_image(new(), "sha384"), w.me))
    w.case("hash in dbx, well signed with SHA-512", sign(w.dbx.add_image(new()), w.me, digest="sha512"))
    w.case("SHA-1 hash in dbx, well signed with SHA-1", sign(w.dbx.add_image(new(), "sha1"), w.me, digest="sha1"))


def add_revocations(w: World) -> None:
    for digest in ("sha256", "sha384", "sha512"):
        root = w.anchor(f"CA revoked by {digest}")
        w.dbx.add_revoked(root, digest)
        below = leaf(f"leaf of a CA revoked by {digest}", root)
        w.case(f"CA in db revoked by its {digest}, not embedded", sign(PLAIN, below))
    w.case("CA in db revoked, embedded", sign(PLAIN, below, chain=[root]))
    later = w.anchor("CA revoked at a time")
    w.dbx.add_revoked(later, time=struct.pack("<HBBBBBxIhBx", 2040, 1, 1, 0, 0, 0, 0, 0, 0))
    w.case("CA in db revoked at a time to come", sign(PLAIN, leaf("leaf of later", later)))
    signer = leaf("revoked leaf", w.root)
    w.dbx.add_revoked(signer)
    w.case("signer revoked", sign(PLAIN, signer))
    inter = make("revoked inter", w.root)
    w.dbx.add_revoked(inter)
    w.case("embedded intermediate revoked", sign(PLAIN, leaf("leaf of revoked inter", inter), chain=[inter]))
    both = w.anchor("Forbidden and in db")
    w.dbx.trust(both)
    w.case("signer in db and dbx", sign(PLAIN, both))
    w.case("signer issued by a forbidden CA", sign(PLAIN, leaf("leaf of F", w.forbidden)))
    crit = make("Forbidden with a critical extension", None, unknown(critical=True))
    w.dbx.trust(crit)
    w.case("two: forbidden but unhandled critical extension, good", attach(PLAIN, entry(pkcs7(PLAIN, crit)), w.good))


def add_structures(w: World) -> None:
    me = w.me
    w.case("announced SHA-512, content SHA-256", sign(PLAIN, me, digest="sha512", content_digest="sha256"))
    w.case("announced SHA-1 and SHA-256", sign(PLAIN, me, announced=["sha1", "sha256"]))
    w.case("announced SHA-256 and SHA-1", sign(PLAIN, me, announced=["sha256", "sha1"]))
    w.case("content SHA-512, signer SHA-256", sign(PLAIN, me, content_digest="sha512"))
    both = ["sha512", "sha256"]
    w.case("content SHA-512, signer SHA-256, both announced", sign(PLAIN, me, content_digest="sha512", announced=both))
    w.case(
        "announced SHA-256, signer SHA-512",
        sign(PLAIN, me, digest="sha512", content_digest="sha256", announced=["sha256"]),
    )
    bulk = [make(f"bulk {i}", None, unknown(critical=False, size=8000), key=rsa_key("bulk")) for i in range(9)]
    w.case("PKCS #7 above 64 KiB", sign(PLAIN, me, chain=bulk))
    w.case("PKCS #7 just below 64 KiB", sign(PLAIN, me, chain=bulk[:7]))
    w.case("two signers in one, of two anchors", sign(PLAIN, me, w.leaf))
    w.case("two signers in one, of one anchor", sign(PLAIN, w.leaf, leaf("second leaf", w.root)))
    w.case("two signers in one, one a stranger", sign(PLAIN, me, w.stranger))
    w.case("no signed attributes", sign(PLAIN, me, attributes=""))
    w.case("attributes without content type", sign(PLAIN, me, attributes="digest"))
    w.case("attributes without digest", sign(PLAIN, me, attributes="type"))
    w.case("attributes with a wrong digest", sign(PLAIN, me, attributes="type wrong"))
    w.case("signed content is of another type", sign(PLAIN, me, content_type="1.2.840.113549.1.7.1"))
    keyed = w.anchor("skid signer", asn1.extension("2.5.29.14", asn1.tlv(asn1.OCTETS, b"\x42" * 20)))
    w.case("signer named by key id, version 3", sign(PLAIN, keyed, by_key_id=b"\x42" * 20))
    w.case("the same certificate twice", sign(PLAIN, me, chain=[me]))
    w.case("an embedded certificate that is none", sign(PLAIN, me, chain=[asn1.sequence(asn1.integer(1))]))


def add_headers(w: World) -> None:
    last = files.count_sections(PLAIN) - 1
    first = struct.unpack_from("<II", PLAIN, files.section_field(0, 16))
    w.case(
        "two sections with the same bytes", sign(files.patch(PLAIN, files.section_field(last, 16), "II", *first), w.me)
    )
    raw = struct.unpack_from("<I", PLAIN, files.section_field(last, 16))[0]
    w.case(
        "a section that lies in the headers",
        sign(files.patch(PLAIN, files.section_field(last, 16), "II", raw, 0x200), w.me),
    )
    w.case(
        "a section that is longer than the file",
        attach(files.patch(PLAIN, files.section_field(last, 16), "I", 1 << 20), w.good),
    )
    w.case("a section at address 0", sign(files.patch(PLAIN, files.section_field(last, 12), "I", 0), w.me))
    changed = files.patch(PLAIN, 0x98 + 108, "I", 17)
    w.case("17 data directories", attach(changed, entry(pkcs7(changed, w.me))))
    changed = files.patch(PLAIN, 0x98 + 56, "I", 0x300)
    w.case("image shorter than its headers", attach(changed, entry(pkcs7(changed, w.me))))
    changed = files.patch(PLAIN, 0x1000 - 0x1000 + files._LFANEW + 22, "H", 0x020F)
    w.case("relocations stripped", sign(changed, w.me))
    w.case("one byte of code changed", files.patch(attach(PLAIN, w.good), files.HEADERS_BYTES, "B", 0x33))


def make_suite() -> Suite:
    """All files, the same bytes at every run."""
    w = World()
    for add in (
        *(add_chains, add_algorithms, add_extensions, add_authority_keys, add_names, add_constraints),
        *(add_tables, add_several, add_hashes, add_revocations, add_structures, add_headers),
    ):
        add(w)
    assert pe_hash(PLAIN, "sha256") != pe_hash(w.marks.next(), "sha256")
    return Suite(w.cases, w.me, w.db.encode(), w.dbx.encode())
