//! The cipher of a segment: AES-256-GCM with a key of its own, kept in a file beside it and destroyed with it.
//!
//! A block's nonce is its place, which no other block of that key has: a segment is never written again after a restart, nor
//! a block of it. The header, tag and checksum apart, is authenticated with the body.

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::AeadInOut;
use aes_gcm::aead::KeyInit;
use aes_gcm::aead::array::Array;

use crate::wire::tape::block::BadBlock;
use crate::wire::tape::block::Header;

pub const KEY_BYTES: usize = 32;
pub const KEY_FILE_BYTES: usize = 48;
const KEY_MAGIC: [u8; 8] = *b"tipKEY\n\x01";

#[derive(Clone)]
pub struct Key {
    bytes: [u8; KEY_BYTES],
    cipher: Aes256Gcm,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Key {
    pub fn new(bytes: [u8; KEY_BYTES]) -> Self {
        Self { bytes, cipher: Aes256Gcm::new(&Array::from(bytes)) }
    }

    /// The content of a key file.
    pub fn emit(&self) -> [u8; KEY_FILE_BYTES] {
        let mut file = [0; KEY_FILE_BYTES];
        let content = KEY_MAGIC.into_iter().chain(self.bytes);
        let crc = crc32c::crc32c(&self.bytes).to_le_bytes();
        file.iter_mut().zip(content.chain(crc)).for_each(|(byte, content)| *byte = content);
        file
    }

    /// `None`: no key file, or one that was destroyed.
    pub fn parse(file: &[u8]) -> Option<Self> {
        let (bytes, crc) = file.strip_prefix(&KEY_MAGIC)?.split_first_chunk::<KEY_BYTES>()?;
        (*crc.first_chunk::<4>()? == crc32c::crc32c(bytes).to_le_bytes()).then(|| Self::new(*bytes))
    }

    /// Encrypts `body` in place; the header is then that of a sealed block.
    pub fn seal(&self, header: &mut Header, body: &mut [u8]) -> Result<(), BadBlock> {
        header.is_sealed = true;
        let nonce = Array::from(nonce(header));
        let tag = self
            .cipher
            .encrypt_inout_detached(&nonce, &header.associated(), body.into())
            .map_err(|_| BadBlock::Sealed)?;
        header.tag = tag.into();
        Ok(())
    }

    /// Decrypts `body` in place.
    pub fn open(&self, header: &Header, body: &mut [u8]) -> Result<(), BadBlock> {
        let nonce = Array::from(nonce(header));
        self.cipher
            .decrypt_inout_detached(&nonce, &header.associated(), body.into(), &Array::from(header.tag))
            .map_err(|_| BadBlock::Sealed)
    }
}

fn nonce(header: &Header) -> [u8; 12] {
    let [a, b, c, d] = header.place.to_le_bytes();
    [a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0]
}
