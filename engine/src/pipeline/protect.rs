//! The protection of frames: AES-256-GCM under the object's key, or checksums in the same shape.

use std::fmt;

use aes_gcm::aead::AeadInOut;
use aes_gcm::{Aes256Gcm, KeyInit};
use sha2::{Digest, Sha256};

use crate::error::{Error, ErrorKind, Result};
use crate::format::{EncodedHeader, FrameHeader, TAG_BYTES, frame_aad, frame_nonce};
use crate::secret::SecretKey;

/// Seals and opens the frames of one object.
pub struct Protector {
    header_sha256: [u8; 32],
    cipher: Option<Box<Aes256Gcm>>,
}

impl Protector {
    /// For an object with this header, and its own key where it is encrypted.
    pub fn new(header: &EncodedHeader, object_key: Option<&SecretKey>) -> Self {
        let cipher = object_key.map(|key| Box::new(Aes256Gcm::new(key.expose().into())));
        Self { header_sha256: header.sha256, cipher }
    }

    /// Encrypts `payload` in place (or leaves it) and gives the tag. `name` only for the footer.
    pub(super) fn protect(
        &self,
        header: &FrameHeader,
        name: Option<&str>,
        payload: &mut [u8],
    ) -> Result<[u8; TAG_BYTES]> {
        let (nonce, aad) = (frame_nonce(header), frame_aad(&self.header_sha256, header, name));
        match &self.cipher {
            None => Ok(checksum(&nonce, &aad, payload)),
            Some(cipher) => {
                cipher.encrypt_inout_detached(&nonce.into(), &aad, payload.into()).map(Into::into).map_err(|_| {
                    Error::new(ErrorKind::Internal, format!("frame {} is too long to encrypt", header.number))
                })
            }
        }
    }

    /// Decrypts `payload` in place (or leaves it) if the tag proves it.
    ///
    /// # Errors
    /// `Damaged`: these are not the bytes that were stored at this place of this object.
    pub(super) fn open(
        &self,
        header: &FrameHeader,
        name: Option<&str>,
        payload: &mut [u8],
        tag: &[u8; TAG_BYTES],
    ) -> Result<()> {
        let (nonce, aad) = (frame_nonce(header), frame_aad(&self.header_sha256, header, name));
        let genuine = match &self.cipher {
            None => checksum(&nonce, &aad, payload) == *tag,
            Some(cipher) => cipher.decrypt_inout_detached(&nonce.into(), &aad, payload.into(), &(*tag).into()).is_ok(),
        };
        if genuine {
            return Ok(());
        }
        let how = if self.cipher.is_some() { "does not open: it" } else { "fails its checksum: it" };
        Err(Error::new(ErrorKind::Damaged, format!("frame {} {how} was changed, or belongs elsewhere", header.number))
            .hint("use another backup, or another copy of this one"))
    }
}

impl fmt::Debug for Protector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.cipher.is_some() { "Protector(AES-256-GCM)" } else { "Protector(checksum)" })
    }
}

/// The first 16 bytes of SHA-256 over nonce, AAD length, AAD and payload.
fn checksum(nonce: &[u8], aad: &[u8], payload: &[u8]) -> [u8; TAG_BYTES] {
    let digest = Sha256::new()
        .chain_update(nonce)
        .chain_update((aad.len() as u64).to_le_bytes())
        .chain_update(aad)
        .chain_update(payload)
        .finalize();
    *digest.first_chunk().expect("SHA-256 has 32 bytes")
}
