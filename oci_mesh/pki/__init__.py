"""Keys, certificates and the mesh's own authority: X.509 and files, no sockets, no tasks.

    keys          a node's Ed25519 key pair; checking signatures
    certificates  making and reading the mesh's certificates
    trust         which authorities are trusted now: signed, numbered, so that anyone may pass it on
    authority     the directory of `oci-mesh ca init`: signs certificates, rotates its key
    token         what a new node is given to join
    application   a node's request for a certificate, which proves itself whoever hands it on
    files         durable writes of small files

The one home of `cryptography`. `now` is an argument, in seconds since 1970.
"""
