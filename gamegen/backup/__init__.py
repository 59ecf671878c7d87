"""A database and its objects in a folder or a bucket, and back.

    blobs/AB/ABCDEF...        what was saved, each under the SHA-256 of its bytes
    backups/TIME.json         one for each backup, written last: what belongs to it

What an earlier backup has saved already is not saved again. Tables are plain text as COPY writes it, packed, so that
every version of PostgreSQL reads them and no program of one version is needed.
"""
