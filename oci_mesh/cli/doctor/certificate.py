"""The node's certificate, and who will sign the next one."""

import ssl
import time
from pathlib import Path
from typing import Final

from oci_mesh.cli.doctor.finding import Finding, error, ok, skipped, warning
from oci_mesh.cli.doctor.patient import Patient
from oci_mesh.control.health import Certificate
from oci_mesh.errors import PeerError
from oci_mesh.pki import certificates
from oci_mesh.pki.certificates import CLOCK_SKEW_S
from oci_mesh.pki.trust import Trust
from oci_mesh.quantity import duration_text

# When a renewal is due, as a part of a certificate's life, with some patience: nodes renew at two
# thirds of it at the latest.
_OVERDUE: Final = 0.75

# Before an authority ends. A rotation takes two lives of a certificate, mostly days.
_AUTHORITY_S: Final = 30 * 86_400.0

_TOKEN: Final = "oci-mesh token create --ca DIR, on a node that signs"


async def look_at_certificate(patient: Patient) -> list[Finding]:
    """As the node shows it; if it does not run, as it is on disk."""
    health = patient.health
    if health is not None:
        if not health.secure:
            return [ok("nodes do not prove who they are here, so there are no certificates")]
        shown = health.certificate
    else:
        try:
            shown = _on_disk(patient.root / "identity")
        except (OSError, ValueError, PeerError) as failure:
            return [skipped(f"no certificate of this node can be read: {failure}")]
    if shown is None:
        return [skipped("this node has no certificate yet")]
    return judge_certificate(shown, time.time())


def _on_disk(directory: Path) -> Certificate:
    der = ssl.PEM_cert_to_DER_cert((directory / "node.crt").read_text())
    holder, trust = certificates.read(der), Trust((directory / "trust").read_bytes())
    ends = max(each.not_valid_after_utc.timestamp() for each in trust.authorities)
    # Who signs is not known; that is no finding of a node that does not run.
    return Certificate(holder.not_before, holder.not_after, holder.issuer, ends, signers=1)


def judge_certificate(shown: Certificate, now: float) -> list[Finding]:
    """What is wrong with it at the time `now`, if anything."""
    found: list[Finding] = []
    issued = shown.not_before + CLOCK_SKEW_S
    left = shown.not_after - now
    if left <= 0:
        found.append(
            error(
                "certificate.expired",
                f"this node's certificate expired {duration_text(-left)} ago: no other node takes "
                "it",
                f"start the node once more with a new token ({_TOKEN}): --token TOKEN",
            )
        )
    elif now < shown.not_before:
        found.append(
            error(
                "certificate.not-yet",
                f"this node's certificate is valid in {duration_text(shown.not_before - now)}: the "
                "clock of this machine is behind that of the node which signed it",
                "set the clock: timedatectl set-ntp true",
            )
        )
    elif now > issued + (shown.not_after - issued) * _OVERDUE:
        found.append(
            warning(
                "certificate.overdue",
                "this node's certificate should have been renewed, and is good for "
                f"{duration_text(left)} more",
                "see that a node that signs (--ca) runs and is reached: `mesh` below, and this "
                "node's log",
            )
        )
    if shown.signers == 0:
        found.append(
            error(
                "certificate.no-signer",
                f"no live node signs certificates: this one's ends in {duration_text(left)}",
                "start a node with --ca DIR, where a copy of the authority's directory is",
            )
        )
    if shown.outdated:
        found.append(
            error(
                "certificate.old-authority",
                "the authority's directory of this node is older than what the mesh trusts, so it "
                "signs nothing",
                "copy the directory anew from where `oci-mesh ca rotate` was run",
            )
        )
    if shown.authority_error:
        found.append(
            error(
                "certificate.authority-unreadable",
                f"this node signs nothing: {shown.authority_error}",
                "copy the authority's directory from where it is kept, readable for the node's "
                "user; it is looked at again within a minute",
            )
        )
    if shown.authority_ends - now < _AUTHORITY_S:
        found.append(
            warning(
                "certificate.authority-ends",
                f"the mesh's authority ends in {duration_text(shown.authority_ends - now)}",
                "oci-mesh ca rotate DIR",
            )
        )
    return found or [ok(f"this node's certificate is good for {duration_text(left)} more")]
