//! What is derived from an archive key: its id, and a key for each object.

use std::fmt;

use hkdf::Hkdf;
use sha2::Sha256;

use super::FORMAT_VERSION;
use crate::secret::SecretKey;

/// Names an archive key without telling anything of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub [u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

/// Makes the key of every object another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Salt(pub [u8; 32]);

/// The id of an archive key: 8 bytes of HKDF-SHA256 with info `etcdbr key id`.
pub fn key_id(archive_key: &SecretKey) -> KeyId {
    let mut id = [0; 8];
    expand(None, archive_key, b"etcdbr key id", &mut id);
    KeyId(id)
}

/// The key of one object: HKDF-SHA256 with the header's salt and info `etcdbr object key v<format version>`.
pub fn object_key(archive_key: &SecretKey, salt: &Salt) -> SecretKey {
    let mut key = [0; 32];
    expand(Some(&salt.0), archive_key, format!("etcdbr object key v{FORMAT_VERSION}").as_bytes(), &mut key);
    SecretKey::new(key)
}

fn expand(salt: Option<&[u8]>, key: &SecretKey, info: &[u8], out: &mut [u8]) {
    // HKDF refuses only outputs of more than 255 hashes.
    Hkdf::<Sha256>::new(salt, key.expose()).expand(info, out).expect("at most 32 bytes are asked for");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_keys_depend_on_key_and_salt() {
        let (a, b) = (SecretKey::new([1; 32]), SecretKey::new([2; 32]));
        assert_ne!(key_id(&a), key_id(&b));
        let one = object_key(&a, &Salt([3; 32]));
        assert_ne!(one.expose(), object_key(&a, &Salt([4; 32])).expose());
        assert_ne!(one.expose(), object_key(&b, &Salt([3; 32])).expose());
        assert_eq!(one.expose(), object_key(&a, &Salt([3; 32])).expose());
    }

    /// Computed with an independent HKDF (Python's hmac and hashlib): a change here locks out every archive.
    #[test]
    fn vectors_do_not_move() {
        let key = SecretKey::new([1; 32]);
        assert_eq!(key_id(&key).to_string(), "ece391e8df04a410");
        assert_eq!(
            format!("{:02x?}", &object_key(&key, &Salt([2; 32])).expose()[..8]),
            "[bf, 82, 2f, 8e, ac, ad, 8b, 02]"
        );
    }
}
