//! The program as a whole.

use crate::cli::Help;

/// Help beyond the flags.
pub(super) const HELP: Help = Help {
    command: "",
    description: "recoup takes full and incremental snapshots of databases, seals them to public keys, keeps the same \
        sealed bytes on several stores, and restores from whichever stores still answer. The host that takes \
        the snapshots cannot read them; only a custodian's identity can.\n\
        Results are printed on standard output, everything else on standard error. Without a terminal a \
        command that succeeds says nothing, unless its result was asked for.\n\
        The configuration is the file that --config names, else $RECOUP_CONFIG, else \
        /etc/recoup/recoup.toml, else recoup/recoup.toml below $XDG_CONFIG_HOME or ~/.config. It is never \
        looked for in the working directory. A custodian's identity is read from the file that --identity \
        or $RECOUP_IDENTITY_FILE names, or from the output of the command in $RECOUP_IDENTITY_COMMAND.\n\
        SIGINT and SIGTERM end a command safely: nothing is half committed, and the same command can be run \
        again. SIGUSR1 prints a line that says where the work stands.",
    examples: &[
        ("see it work, in a temporary directory", "recoup demo"),
        (
            "set up a repository with two stores and a new identity",
            "recoup init --store a=file:///mnt/a --store b=file:///mnt/b \\\n      --source ledger=sqlite:/data/ledger.db --new-identity /media/key/custodian.age",
        ),
        ("take snapshots of everything", "recoup backup"),
        ("get the newest one back", "recoup restore ledger --to /data/restored --identity /media/key/custodian.age"),
    ],
    exit_codes: &[
        (0, "done"),
        (1, "done with warnings"),
        (2, "failed, or damage was found"),
        (3, "verify, check, status, drill, doctor: no verdict could be reached"),
        (10, "no repository"),
        (11, "locked by another run"),
        (12, "no usable key"),
        (13, "a source is unreachable or unfit"),
        (14, "a store is unreachable"),
        (15, "stored data is damaged"),
        (16, "no recovery point meets the target"),
        (17, "refused for safety"),
        (18, "an append-only log was altered"),
        (64, "bad usage (verify, check, status, drill, doctor: 3)"),
        (70, "internal error"),
        (78, "bad configuration (verify, check, status, drill, doctor: 3)"),
        (130, "interrupted; run the same command again"),
        (143, "terminated; run the same command again"),
    ],
};
