//! EROFS images: reading what composefs and mkfs.erofs write, and writing the composefs V1 layout.
