//! Whether what is to be restored fits the PostgreSQL that is installed here, found out from a few small files of the
//! snapshot before anything is written.

use super::{
    about::{self, About},
    control::{self, Control},
    programs::Programs,
    settings::{self, Configuration},
};
use crate::world::{self, programs::Halt};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// The files of a snapshot that are looked at, by their paths.
pub type Files = BTreeMap<String, Vec<u8>>;

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fit {
    /// With these no server would start, and what to do about each.
    pub misfits: Vec<(String, String)>,
    /// What the operator should look into.
    pub warnings: Vec<String>,
    /// What could not be found out.
    pub notes: Vec<String>,
}

/// Whether a file of a snapshot is among those that are looked at.
pub fn is_looked_at(path: &str) -> bool {
    let is_configuration = |name: &str| name.ends_with(".conf") && !name.contains('/');
    ["PG_VERSION", control::PATH, about::PATH].contains(&path)
        || is_configuration(path)
        || path.strip_prefix("conf.d/").is_some_and(is_configuration)
}

/// Compares a snapshot with the programs in `bin_dir`, or in the usual places, and with this host.
pub fn examine(files: &Files, bin_dir: Option<&Path>, halt: &Halt) -> Fit {
    let mut fit = Fit::default();
    let version = files.get("PG_VERSION").and_then(|bytes| std::str::from_utf8(bytes).ok()?.trim().parse().ok());
    let Some(major) = version else {
        fit.notes.push("the snapshot does not say of which version it is: nothing was compared".to_owned());
        return fit;
    };
    fit.control(files.get(control::PATH).map_or(&[], Vec::as_slice));
    let about = About::read(files.get(about::PATH).map_or(&[], Vec::as_slice));
    let configuration = settings::effective(files);
    fit.includes(&configuration);
    match Programs::of_version(major, bin_dir, halt) {
        Ok(programs) => {
            fit.compiled(files, &programs, halt);
            fit.libraries(&configuration, &programs, halt);
            fit.collations(&about, about::libc(), about::icu_of(&programs.dir.join("postgres")));
        }
        Err(seen) if bin_dir.is_some() => fit.misfits.push((
            format!("the snapshot is of PostgreSQL {major}, and bin_dir is of another: {seen}"),
            format!("install PostgreSQL {major} and name its directory as bin_dir of the source"),
        )),
        Err(_) => {
            fit.notes.push(format!(
                "PostgreSQL {major} is not installed here (no bin_dir, and not in the usual places): whether its \
                 libraries fit could not be compared"
            ));
            fit.collations(&about, about::libc(), None);
        }
    }
    fit
}

impl Fit {
    /// What the control file says of the machine that it was written on.
    fn control(&mut self, bytes: &[u8]) {
        let elsewhere = "restore on a machine of the same architecture; between architectures only pg_dump goes";
        match Control::parse(bytes) {
            Ok(_) if !is_of_this_machine(bytes) => self.misfits.push((
                "the snapshot is of a machine with other numbers or alignment".to_owned(),
                elsewhere.to_owned(),
            )),
            Ok(_) => {}
            Err(why) if why.contains("architecture") => {
                self.misfits.push((format!("the snapshot's {} {why}", control::PATH), elsewhere.to_owned()));
            }
            Err(why) => self.warnings.push(format!("the snapshot's {} could not be read: {why}", control::PATH)),
        }
    }

    /// Sizes that a server is built with.
    fn compiled(&mut self, files: &Files, programs: &Programs, halt: &Halt) {
        let Some(bytes) = files.get(control::PATH) else { return };
        let sizes = [("block_size", 216), ("wal_block_size", 224), ("segment_size", 220)];
        for (name, at) in sizes {
            let Some(stored) = number_at(bytes, at) else { return };
            match built_with(programs, name, halt) {
                Ok(built) if built.trim() == stored.to_string() => {}
                Ok(built) => self.misfits.push((
                    format!("the snapshot has a {name} of {stored}, {} of {}", programs.version, built.trim()),
                    "name as bin_dir the programs of a server that was built as the original was".to_owned(),
                )),
                Err(why) => self.notes.push(format!("{name} could not be compared: {why}")),
            }
        }
    }

    /// Files that the configuration wants and that are neither in the snapshot nor here.
    fn includes(&mut self, configuration: &Configuration) {
        let missing = |name: &&String| !name.starts_with('/') || !Path::new(name).exists();
        for name in configuration.not_found.iter().filter(missing) {
            self.warnings.push(format!(
                "the configuration includes {name}, which is neither in the snapshot nor here: the server does not start \
                 until it is there or postgresql.conf no longer names it"
            ));
        }
    }

    fn libraries(&mut self, configuration: &Configuration, programs: &Programs, halt: &Halt) {
        let Some(libraries) = library_directory(programs, halt) else {
            self.notes.push(format!("{} has its libraries in no known place", programs.version));
            return;
        };
        let path = configuration.get("dynamic_library_path").unwrap_or("$libdir");
        for (setting, folder) in [
            ("shared_preload_libraries", None),
            ("session_preload_libraries", None),
            ("local_preload_libraries", Some("$libdir/plugins")),
        ] {
            for name in settings::list(configuration.get(setting).unwrap_or_default()) {
                let is_found = places(&name, folder, path)
                    .iter()
                    .any(|place| is_library(&place.replace("$libdir", &libraries.to_string_lossy())));
                if is_found {
                    continue;
                }
                let what = format!("library {name} of {setting} is missing in {}", libraries.display());
                if setting == "shared_preload_libraries" {
                    let next = format!("install the package of {name} for PostgreSQL {}", programs.major);
                    self.misfits.push((format!("{what}: the server does not start without it"), next));
                } else {
                    self.warnings.push(format!("{what}: sessions fail until it is installed"));
                }
            }
        }
    }

    /// Texts are in the order of the library that sorted them: indexes on them are wrong where another sorts otherwise.
    fn collations(&mut self, about: &About, libc: Option<String>, icu: Option<u32>) {
        let databases = |provider: &str| -> Vec<&str> {
            let of = about.collations.iter().filter(|collation| collation.provider == provider);
            of.map(|collation| collation.database.as_str()).collect()
        };
        let icu_text = |version: Option<u32>| version.map(|version| format!("ICU {version}"));
        let pairs = [("libc", about.libc.clone(), libc), ("icu", icu_text(about.icu), icu_text(icu))];
        for (provider, theirs, ours) in pairs {
            let (databases, Some(theirs), Some(ours)) = (databases(provider), theirs, ours) else { continue };
            if !databases.is_empty() && theirs != ours {
                self.warnings.push(format!(
                    "texts were sorted by {theirs}, and here is {ours} (databases {}): after the recovery REINDEX what \
                     is on texts, check constraints and partitions by text, then ALTER DATABASE ... REFRESH COLLATION \
                     VERSION",
                    databases.join(", ")
                ));
            }
        }
    }
}

fn number_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Whether alignment, numbers and their passing are those of the machines that PostgreSQL 15 to 18 run on with 64 bits,
/// as this one is.
fn is_of_this_machine(bytes: &[u8]) -> bool {
    let float = bytes.get(208..216).and_then(|bytes| Some(f64::from_le_bytes(bytes.try_into().ok()?)));
    number_at(bytes, 204) == Some(8) && float == Some(1_234_567.0) && bytes.get(248) == Some(&1)
}

/// What a server was built with, as it says itself. It is asked in an empty directory, where it starts nothing.
fn built_with(programs: &Programs, name: &str, halt: &Halt) -> Result<String, String> {
    let scratch = tempfile::Builder::new().prefix("recoup-pg-").tempdir_in(world::temporary_dir());
    let scratch = scratch.map_err(|error| error.to_string())?;
    fs::write(scratch.path().join("postgresql.conf"), "").map_err(|error| error.to_string())?;
    let arguments = ["-C".into(), name.into(), "-D".into(), scratch.path().into()];
    programs.look_up("postgres", &arguments, halt).map_err(|failure| failure.to_string())
}

/// Where the libraries of a server are.
fn library_directory(programs: &Programs, halt: &Halt) -> Option<PathBuf> {
    let told = programs.path("pg_config").and_then(|_| {
        let told = programs.look_up("pg_config", &["--pkglibdir".into()], halt).ok()?;
        Some(PathBuf::from(told.trim()))
    });
    let near = ["lib", "lib/postgresql", "lib64"].map(|name| programs.dir.parent().map(|above| above.join(name)));
    let holds = |dir: &PathBuf| dir.join("plpgsql.so").exists();
    told.into_iter().chain(near.into_iter().flatten()).find(holds)
}

/// Where the server looks for a library.
fn places(name: &str, folder: Option<&str>, path: &str) -> Vec<String> {
    match folder {
        _ if name.contains('/') => vec![name.to_owned()],
        Some(folder) => vec![format!("{folder}/{name}")],
        None => path.split(':').map(|folder| format!("{}/{name}", folder.trim_end_matches('/'))).collect(),
    }
}

fn is_library(place: &str) -> bool {
    [place.to_owned(), format!("{place}.so")].iter().any(|place| Path::new(place).is_file())
}

#[cfg(test)]
mod tests {
    use super::{super::about::Collation, *};
    use std::os::unix::fs::PermissionsExt;

    /// A PostgreSQL that is none, and was built with what it says.
    fn pretend(dir: &Path, version: u32, block_size: u32) -> PathBuf {
        let bin = dir.join(format!("{version}-{block_size}/bin"));
        let libraries = dir.join(format!("{version}-{block_size}/lib"));
        fs::create_dir_all(libraries.join("plugins")).unwrap();
        fs::create_dir_all(&bin).unwrap();
        for name in ["plpgsql.so", "pg_stat_statements.so", "plugins/here.so"] {
            fs::write(libraries.join(name), "").unwrap();
        }
        let script = format!(
            "#!/bin/sh\ncase \"$2\" in block_size) echo {block_size};; wal_block_size) echo 8192;; segment_size) echo \
             131072;; *) echo 'postgres (PostgreSQL) {version}.1';; esac\n"
        );
        fs::write(bin.join("postgres"), script).unwrap();
        fs::set_permissions(bin.join("postgres"), PermissionsExt::from_mode(0o755)).unwrap();
        bin
    }

    fn files(conf: &str) -> Files {
        let mut control = vec![0; control::BYTES];
        let mut put = |at: usize, bytes: &[u8]| control[at..at + bytes.len()].copy_from_slice(bytes);
        for (at, value) in [(0, 7_u32), (8, 1300), (12, 202_209_061), (204, 8), (216, 8192), (220, 131_072)] {
            put(at, &value.to_le_bytes());
        }
        for (at, value) in [(224, 8192_u32), (228, 16 << 20), (248, 1)] {
            put(at, &value.to_le_bytes());
        }
        put(208, &1_234_567_f64.to_le_bytes());
        let crc = crc32c::crc32c(&control[..288]);
        control[288..292].copy_from_slice(&crc.to_le_bytes());
        [("PG_VERSION", b"900\n".to_vec()), (control::PATH, control), ("postgresql.conf", conf.as_bytes().to_vec())]
            .map(|(name, bytes)| (name.to_owned(), bytes))
            .into()
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (right, other_blocks, other) =
            (pretend(dir.path(), 900, 8192), pretend(dir.path(), 900, 16384), pretend(dir.path(), 901, 8192));
        let found = |conf: &str, bin: &Path| examine(&files(conf), Some(bin), &Halt::new());
        assert_eq!(found("shared_preload_libraries = 'pg_stat_statements'", &right), Fit::default());
        let misfits = |conf: &str, bin: &Path| -> Vec<String> {
            found(conf, bin).misfits.into_iter().map(|(what, next)| format!("{what} -> {next}")).collect()
        };
        let only = |found: Vec<String>, words: &str| assert!(found.len() == 1 && found[0].contains(words), "{found:?}");
        only(misfits("", &other), "bin_dir is of another");
        only(misfits("", &other_blocks), "a block_size of 8192, postgres (PostgreSQL) 900.1 of 16384");
        let conf = "shared_preload_libraries = 'pg_stat_statements, nosuch'\ninclude 'gone.conf'\n\
                    session_preload_libraries = '$libdir/pg_stat_statements, \"Other\"'\n\
                    local_preload_libraries = 'here, pg_stat_statements'\n";
        only(misfits(conf, &right), "library nosuch of shared_preload_libraries is missing");
        let warnings = found(conf, &right).warnings;
        assert_eq!(warnings.len(), 3, "{warnings:?}");
        assert!(warnings[0].contains("includes gone.conf"), "{warnings:?}");
        assert!(warnings[1].contains("library Other of session_preload_libraries"), "{warnings:?}");
        assert!(warnings[2].contains("library pg_stat_statements of local_preload_libraries"), "{warnings:?}");
        // Elsewhere than in the usual place.
        fs::write(dir.path().join("nosuch.so"), "").unwrap();
        let path = format!("{conf}dynamic_library_path = '$libdir:{}'\n", dir.path().display());
        assert!(misfits(&path, &right).is_empty());
    }

    #[test]
    fn other_machines_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let bin = pretend(dir.path(), 900, 8192);
        let mut swapped = files("");
        let version = 1300_u32.swap_bytes().to_le_bytes();
        swapped.get_mut(control::PATH).unwrap()[8..12].copy_from_slice(&version);
        let found = examine(&swapped, Some(&bin), &Halt::new());
        assert!(found.misfits[0].0.contains("another architecture"), "{found:?}");
        let mut bytes = files("")[control::PATH].clone();
        assert!(is_of_this_machine(&bytes));
        bytes[204] = 4;
        assert!(!is_of_this_machine(&bytes) && !is_of_this_machine(&[]));
        // Without its version nothing can be said.
        let found = examine(&Files::new(), Some(&bin), &Halt::new());
        assert!(found.misfits.is_empty() && found.notes.len() == 1);
    }

    #[test]
    fn other_orders_of_texts_are_named() {
        let collation = |database: &str, provider: &str| Collation {
            database: database.to_owned(),
            provider: provider.to_owned(),
            version: "1".to_owned(),
        };
        let about = About {
            libc: Some("glibc 2.31".to_owned()),
            icu: Some(67),
            collations: vec![collation("ledger", "libc"), collation("names", "icu")],
            ..About::default()
        };
        for (libc, icu, databases) in [
            (Some("glibc 2.31"), Some(67), [].as_slice()),
            (Some("glibc 2.36"), Some(67), &["ledger"]),
            (Some("glibc 2.36"), Some(72), &["ledger", "names"]),
            (None, None, &[]),
        ] {
            let mut fit = Fit::default();
            fit.collations(&about, libc.map(str::to_owned), icu);
            assert_eq!(fit.warnings.len(), databases.len(), "{fit:?}");
            for (warning, database) in fit.warnings.iter().zip(databases) {
                assert!(warning.contains(database) && warning.contains("REINDEX"), "{warning}");
            }
        }
        // Texts in the order of their bytes are nobody's.
        let mut fit = Fit::default();
        fit.collations(&About { collations: Vec::new(), ..about }, Some("glibc 2.36".to_owned()), Some(72));
        assert_eq!(fit, Fit::default());
    }
}
