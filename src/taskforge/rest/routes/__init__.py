"""Handlers: parse, call one service function, render."""
