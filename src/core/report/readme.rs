//! The text that lies beside a report: what each file is, and how to check it with stock programs.

use super::Report;

/// The text; its indented lines are commands for a shell in the report's directory.
pub fn readme(report: &Report) -> String {
    let head = &report.head;
    let mut text = format!(
        "Restore verification report {} of source {}\nfrom {} to {}, made {}.\n\n\
         report.json        the report; it decides\n\
         report.json.sig    its signature (OpenSSH SSHSIG, namespace recoup-report)\n\
         report.html        the same as a page, made from report.json and nothing else\n\
         allowed_signers    the keys that signed the report and the records\n\
         evidence/          the records that the report quotes, each with its signature\n\
         SHA256SUMS         the digests of all of these\n\n\
         The signature over the report, with OpenSSH 8.2 or newer:\n\n    \
         ssh-keygen -Y verify -f allowed_signers -I report@{} -n recoup-report -s report.json.sig < report.json\n\n\
         allowed_signers came with the report: compare the fingerprint that this prints with the one that you were\n\
         given by other means. The report names {}.\n\n\
         The digests:\n\n    \
         sha256sum -c SHA256SUMS\n\n",
        head.report, head.source, head.from, head.to, head.made_at, head.repository, report.authority.signer,
    );
    if !report.evidence.quoted.is_empty() {
        text.push_str(&format!(
            "The signature over every record, which is in report.json by its SHA-256 (evidence.quoted):\n\n    \
             for r in evidence/*.json; do ssh-keygen -Y verify -f allowed_signers -I evidence@{} -n recoup-evidence \
             -s \"${{r%.json}}.sig\" < \"$r\" || exit 1; done\n\n",
            head.repository
        ));
    }
    text.push_str(
        "All of that, and whether the findings, the verdict and the page follow from the rest, with recoup:\n\n    \
         recoup report --verify .\n\n\
         The format is described in recoup-report(5).\n",
    );
    text
}
