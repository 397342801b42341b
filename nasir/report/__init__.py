"""(docs follow)"""
