"""Schedules and averages inside other people's trainers, a module for each."""
