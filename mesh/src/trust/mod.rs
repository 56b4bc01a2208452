//! Identity on disk, the certificate authority of issuers, tokens, and the TLS configurations of the data plane.
