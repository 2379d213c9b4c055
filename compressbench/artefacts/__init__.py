"""Artefacts: what answers, ours or not. ``told.read`` makes one of what a user names; nothing that is read runs code.

An *artefact* (``artefact.Artefact``) is opened and asked; a file of answers (``predictions.Predictions``) holds them
already. What pictures have to become before a model is asked is a ``preparation.Preparation``.
"""
