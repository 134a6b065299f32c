"""The app in the browser: ask, compare rerankers blind, ask your own documents, look at experiments."""
