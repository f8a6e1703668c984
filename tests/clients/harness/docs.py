def check_docs():
    return []
