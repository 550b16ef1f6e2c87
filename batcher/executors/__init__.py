"""The executor `emulated`, and the thread that every blocking executor runs on (`threaded`)."""
