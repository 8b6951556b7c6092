//! The archive's keys: the first one writes, all of them read.

use std::fmt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::clock::random_bytes;
use crate::error::{Error, ErrorKind, Result};
use crate::format::{KeyId, Protection, Salt, key_id, object_key};
use crate::secret::{SecretKey, SecretText};

/// A key file is a few lines; more is another file by mistake.
const MAX_KEY_FILE_BYTES: u64 = 64 << 10;

/// Where keys come from.
#[derive(Debug, Clone)]
pub enum KeyringSource {
    /// None: backups are written unencrypted, and only such are read.
    Unencrypted,
    /// A file of base64 keys, one a line (empty lines and `#` comments aside), or of exactly 32 raw bytes.
    File(PathBuf),
    /// The same lines in a text.
    Text(SecretText),
}

/// Archive keys with their ids.
#[derive(Clone, Default)]
pub struct Keyring(Vec<(KeyId, SecretKey)>);

impl Keyring {
    /// Reads the keys. The second value is a warning for the operator, where there is cause.
    ///
    /// # Errors
    /// `Key` for a file that cannot be read or holds no valid key; nothing of its contents is shown.
    pub fn load(source: &KeyringSource) -> Result<(Self, Option<String>)> {
        match source {
            KeyringSource::Unencrypted => Ok((Self::default(), None)),
            KeyringSource::Text(text) => Ok((Self::parse_lines(text.expose(), "ETCDBR_ENCRYPTION_KEY")?, None)),
            KeyringSource::File(path) => Ok((Self::read_file(path)?, permissions_warning(path))),
        }
    }

    /// A new key, in the form in which files and the environment take it.
    ///
    /// # Errors
    /// `Internal` without random bytes.
    pub fn generate() -> Result<(KeyId, SecretText)> {
        let key = SecretKey::new(random_bytes()?);
        Ok((key_id(&key), SecretText::new(STANDARD.encode(key.expose()))))
    }

    /// Whether backups are written encrypted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The ids, the writing key's first.
    pub fn ids(&self) -> Vec<KeyId> {
        self.0.iter().map(|(id, _)| *id).collect()
    }

    /// The protection of a new object, with the object's key where there is one.
    ///
    /// # Errors
    /// `Internal` without random bytes.
    pub(super) fn protection(&self) -> Result<(Protection, Option<SecretKey>)> {
        let Some((key_id, archive_key)) = self.0.first() else { return Ok((Protection::Checksum, None)) };
        let salt = Salt(random_bytes()?);
        let object_key = object_key(archive_key, &salt);
        Ok((Protection::Aes256Gcm { key_id: *key_id, salt }, Some(object_key)))
    }

    /// The key of an object that is protected so.
    ///
    /// # Errors
    /// `Key` where the object's key is not among ours. `Refused` for an unencrypted object while keys are given: whoever
    /// can write to the store could plant it, and it would be restored as if it were proven.
    pub(super) fn object_key(&self, protection: &Protection) -> Result<Option<SecretKey>> {
        match protection {
            Protection::Checksum if self.is_empty() => Ok(None),
            Protection::Checksum => Err(Error::new(ErrorKind::Refused, "it is not encrypted, but a key was given")
                .hint(
                    "if you trust this backup, run the command without --encryption-key-file and ETCDBR_ENCRYPTION_KEY",
                )),
            Protection::Aes256Gcm { key_id, salt } => {
                let known = self.0.iter().find(|(id, _)| id == key_id);
                known.map(|(_, key)| Some(object_key(key, salt))).ok_or_else(|| self.missing(*key_id))
            }
        }
    }

    fn missing(&self, wanted: KeyId) -> Error {
        let ours: Vec<_> = self.0.iter().map(|(id, _)| id.to_string()).collect();
        let have = if ours.is_empty() {
            "no key was given".to_owned()
        } else {
            format!("the keyring has {}", ours.join(", "))
        };
        Error::new(ErrorKind::Key, format!("it is encrypted with key {wanted}, and {have}"))
            .hint("give the file with that key as --encryption-key-file, or the key in ETCDBR_ENCRYPTION_KEY")
    }

    fn read_file(path: &Path) -> Result<Self> {
        let unreadable =
            |error| Error::new(ErrorKind::Key, format!("cannot read the key file {}", path.display())).caused_by(error);
        if std::fs::metadata(path).map_err(unreadable)?.len() > MAX_KEY_FILE_BYTES {
            return Err(not_a_keyring(&path.display().to_string()));
        }
        let bytes = Zeroizing::new(std::fs::read(path).map_err(unreadable)?);
        if let Ok(raw) = <[u8; 32]>::try_from(bytes.as_slice()) {
            return Ok(Self::of(vec![SecretKey::new(raw)]));
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| not_a_keyring(&path.display().to_string()))?;
        Self::parse_lines(text, &path.display().to_string())
    }

    fn parse_lines(text: &str, origin: &str) -> Result<Self> {
        let mut keys = Vec::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let bytes = Zeroizing::new(STANDARD.decode(line).map_err(|_| not_a_keyring(origin))?);
            keys.push(SecretKey::new(bytes.as_slice().try_into().map_err(|_| not_a_keyring(origin))?));
        }
        if keys.is_empty() { Err(not_a_keyring(origin)) } else { Ok(Self::of(keys)) }
    }

    fn of(keys: Vec<SecretKey>) -> Self {
        Self(keys.into_iter().map(|key| (key_id(&key), key)).collect())
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.ids().iter().map(KeyId::to_string)).finish()
    }
}

fn not_a_keyring(origin: &str) -> Error {
    Error::new(ErrorKind::Key, format!("{origin} is not a keyring"))
        .hint("it needs one base64 key of 32 bytes a line, or exactly 32 raw bytes; `etcdbr keygen` makes one")
}

fn permissions_warning(path: &Path) -> Option<String> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
    (mode & 0o077 != 0)
        .then(|| format!("key file {} has mode {mode:04o}: others can read it; chmod 0600 it", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";
    const TWO: &str = "AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";

    #[test]
    fn the_first_key_writes_and_all_read() {
        let both = Keyring::parse_lines(&format!("# rotated\n{TWO}\n\n{ONE}\n"), "test").unwrap();
        let old = Keyring::parse_lines(ONE, "test").unwrap();
        let (written_by_old, key) = old.protection().unwrap();
        assert_eq!(both.object_key(&written_by_old).unwrap().unwrap().expose(), key.unwrap().expose());
        let (written_by_both, _) = both.protection().unwrap();
        let error = old.object_key(&written_by_both).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Key);
        assert!(error.to_string().contains(&both.ids()[0].to_string()), "{error}");
    }

    #[test]
    fn an_unencrypted_object_is_refused_when_a_key_is_given() {
        let keyring = Keyring::parse_lines(ONE, "test").unwrap();
        assert_eq!(keyring.object_key(&Protection::Checksum).unwrap_err().kind(), ErrorKind::Refused);
    }

    #[test]
    fn raw_files_and_text_files_hold_the_same_key() {
        let dir = tempfile::tempdir().unwrap();
        let (raw, text) = (dir.path().join("raw"), dir.path().join("text"));
        std::fs::write(&raw, [1; 32]).unwrap();
        std::fs::write(&text, format!("{ONE}\n")).unwrap();
        let ids = |path| Keyring::load(&KeyringSource::File(path)).unwrap().0.ids();
        assert_eq!(ids(raw), ids(text));
    }

    #[test]
    fn what_is_no_keyring_is_refused_without_showing_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        for bad in ["", "hunter2", "aHVudGVyMg==", &format!("{ONE}\nhunter2")] {
            std::fs::write(&path, bad).unwrap();
            let error = Keyring::load(&KeyringSource::File(path.clone())).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Key, "{bad}");
            assert!(!error.to_string().contains("hunter2"));
        }
    }

    #[test]
    fn wide_permissions_are_warned_about() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, ONE).unwrap();
        let warning = |mode| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            Keyring::load(&KeyringSource::File(path.clone())).unwrap().1
        };
        assert!(warning(0o640).unwrap().contains("0640"));
        assert_eq!(warning(0o600), None);
    }
}
