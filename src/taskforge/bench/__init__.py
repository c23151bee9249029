"""`make bench`: what TaskForge does on this machine, each figure beside a ceiling taken in the same run.

Real processes, a real server with its default settings, commits that wait for the disk. Every figure is the median of
several runs. The ceiling, COPY, is one connection that copies the same rows into a plain table.
"""
