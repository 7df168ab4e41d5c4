//! Who may look into the data: the user of the process alone. A database holds personal data, and that of the user service what tokens are
//! signed with.
//!
//! Never here: what is in the files. From here a process that has a place of its own goes on to lock it.

use std::{
    fs::{DirBuilder, Permissions, set_permissions},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::Path,
};

use rustix::{fs::Mode, process::umask};

/// What group and others may do to a directory so that they may replace what is in it.
const WRITTEN_BY_OTHERS: u32 = 0o022;
const OURS: u32 = 0o600;

/// Whatever the process makes from here on is its user's alone, also the files that SQLite makes beside a database.
pub(crate) fn from_the_start() {
    umask(Mode::from_raw_mode(0o077));
}

/// Makes a directory, if there is none, for its user alone.
pub(crate) fn directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The mode of a directory that others may write to, as `chmod` takes it.
pub(crate) fn open_to_others(path: &Path) -> io::Result<Option<String>> {
    let mode = path.metadata()?.permissions().mode();
    Ok((mode & WRITTEN_BY_OTHERS != 0).then(|| format!("{:04o}", mode & 0o7777)))
}

/// Takes files of databases that were readable by others before back from them. What is somebody else's file stays as it is: whoever runs
/// the process as another user has given them that.
pub(crate) fn files(directory: &Path) -> io::Result<()> {
    for entry in directory.read_dir()? {
        let entry = entry?;
        let (name, of) = (entry.file_name(), entry.metadata()?);
        let name = name.to_string_lossy();
        let is_ours = [".db", ".db-wal", ".db-shm"].iter().any(|end| name.ends_with(end));
        if is_ours && of.is_file() && of.permissions().mode() & 0o077 != 0 {
            match set_permissions(entry.path(), Permissions::from_mode(OURS)) {
                Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        path.metadata().unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn a_directory_and_its_databases_are_their_user_s_alone() {
        let place = tempfile::tempdir().unwrap();
        let data = place.path().join("a/b");
        directory(&data).unwrap();
        directory(&data).unwrap();
        assert_eq!((mode(&data), open_to_others(&data).unwrap()), (0o700, None));
        for name in ["user.db", "user.db-wal", "notes.txt"] {
            std::fs::write(data.join(name), "").unwrap();
            set_permissions(data.join(name), Permissions::from_mode(0o644)).unwrap();
        }
        files(&data).unwrap();
        assert_eq!(["user.db", "user.db-wal", "notes.txt"].map(|name| mode(&data.join(name))), [0o600, 0o600, 0o644]);
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_told() {
        let place = tempfile::tempdir().unwrap();
        for (set, told) in [(0o755, None), (0o775, Some("0775")), (0o777, Some("0777")), (0o702, Some("0702"))] {
            set_permissions(place.path(), Permissions::from_mode(set)).unwrap();
            assert_eq!(open_to_others(place.path()).unwrap().as_deref(), told);
        }
        set_permissions(place.path(), Permissions::from_mode(0o700)).unwrap();
    }
}
