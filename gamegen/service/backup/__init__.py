"""Backup and restore of the database and its objects, in a folder or a bucket.

    blobs/AB/ABCDEF...        saved bytes, named by their SHA-256
    backups/TIME.json         the manifest of each backup, written last

Bytes that an earlier backup has saved are not saved again. Tables are gzipped text of COPY, which every version of
PostgreSQL reads without a program of the same version.
"""
