"""Builds the stages from Settings and joins them. Read this first."""
