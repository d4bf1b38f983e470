/*
 * What Intel's library offers as macros over a structure whose layout goes with its version, as
 * functions. See mod.rs beside this file, which is their only caller.
 */
#define NO_COMPAT_IMB_API_053
#include <errno.h>
#include <intel-ipsec-mb.h>
#include <string.h>

/* `Message` of mod.rs. */
struct laneway_message {
    uint8_t *text;
    size_t len;
    uint8_t nonce[12];
    uint8_t tag[16];
};

/* A manager in `*manager`, and 0, or what went wrong, for `imb_get_strerror`. */
int laneway_imb_new(IMB_MGR **manager)
{
    IMB_MGR *made = alloc_mb_mgr(0);
    if (made == NULL)
        return ENOMEM;
    /* Takes the widest registers there are, and tests itself. */
    init_mb_mgr_auto(made, NULL);
    int error = imb_get_errno(made);
    if (error != 0)
        free_mb_mgr(made);
    else
        *manager = made;
    return error;
}

void laneway_imb_free(IMB_MGR *manager)
{
    explicit_bzero(manager, imb_get_mb_mgr_size());
    free_mb_mgr(manager);
}

/* Seals or opens the texts in place and computes the tags. Of how many messages: all, or the library is broken. */
uint32_t laneway_imb_run(IMB_MGR *manager, const uint8_t *key, int seals, struct laneway_message *messages,
                         uint32_t count)
{
    IMB_JOB *jobs[IMB_MAX_BURST_SIZE];
    if (count > IMB_MAX_BURST_SIZE || IMB_GET_NEXT_BURST(manager, count, jobs) != count)
        return 0;
    for (uint32_t i = 0; i < count; i++) {
        struct laneway_message *message = &messages[i];
        IMB_JOB *job = jobs[i];
        job->cipher_mode = IMB_CIPHER_CHACHA20_POLY1305;
        job->hash_alg = IMB_AUTH_CHACHA20_POLY1305;
        job->cipher_direction = seals ? IMB_DIR_ENCRYPT : IMB_DIR_DECRYPT;
        job->chain_order = seals ? IMB_ORDER_CIPHER_HASH : IMB_ORDER_HASH_CIPHER;
        job->enc_keys = job->dec_keys = key;
        job->key_len_in_bytes = 32;
        job->iv = message->nonce;
        job->iv_len_in_bytes = sizeof message->nonce;
        job->src = job->dst = message->text;
        job->cipher_start_src_offset_in_bytes = job->hash_start_src_offset_in_bytes = 0;
        job->msg_len_to_cipher_in_bytes = job->msg_len_to_hash_in_bytes = message->len;
        job->u.CHACHA20_POLY1305.aad = NULL;
        job->u.CHACHA20_POLY1305.aad_len_in_bytes = 0;
        job->auth_tag_output = message->tag;
        job->auth_tag_output_len_in_bytes = sizeof message->tag;
#if IMB_VERSION_NUM >= IMB_VERSION(1, 4, 0)
        imb_set_session(manager, job);
#endif
    }
    uint32_t done = IMB_SUBMIT_BURST(manager, count, jobs);
    /* Nothing may stay behind that points at the messages; with this cipher nothing does. */
    if (done < count)
        done += IMB_FLUSH_BURST(manager, count - done, jobs + done);
    uint32_t completed = 0;
    for (uint32_t i = 0; i < done; i++)
        completed += jobs[i]->status == IMB_STATUS_COMPLETED;
    return completed;
}
