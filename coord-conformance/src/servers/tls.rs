//! Certificates of a server for `localhost` and 127.0.0.1, under an authority of its own.

use std::{io, path::Path};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

use super::folder::{self, Owner};

/// The authority's certificate, in the server's folder.
pub(super) const AUTHORITY: &str = "ca.pem";
/// The server's certificate.
pub(super) const CERTIFICATE: &str = "server.pem";
/// The server's key.
pub(super) const KEY: &str = "server.key";

/// Writes [`AUTHORITY`], [`CERTIFICATE`] and [`KEY`].
pub(super) fn write(folder: &Path, owner: Option<Owner>) -> io::Result<()> {
    let made = make().map_err(io::Error::other)?;
    for (name, text) in [AUTHORITY, CERTIFICATE, KEY].iter().zip(made) {
        folder::write(&folder.join(name), &text, owner)?;
    }
    Ok(())
}

fn make() -> Result<[String; 3], rcgen::Error> {
    let mut authority = CertificateParams::new(Vec::new())?;
    authority.distinguished_name.push(DnType::CommonName, "coord test authority");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
    let authority_key = KeyPair::generate()?;
    let signed = authority.self_signed(&authority_key)?.pem();

    let mut server = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
    server.distinguished_name.push(DnType::CommonName, "localhost");
    server.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = server.signed_by(&key, &Issuer::new(authority, authority_key))?.pem();
    Ok([signed, certificate, key.serialize_pem()])
}
